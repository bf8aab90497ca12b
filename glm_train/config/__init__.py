"""The configuration: the settings of a run as dataclasses, and their composition from recipes by Hydra."""
