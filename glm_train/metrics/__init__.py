"""How good predictions are, as flat dicts of numbers, and tables of them to print. No torch.

scikit-learn and scipy are imported inside functions: together they take over a second.
"""
