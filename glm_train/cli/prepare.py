"""`glm-train prepare RECIPE`: make the prepared examples ahead of time, on a machine without a GPU for instance."""

from __future__ import annotations

import argparse

from glm_train.cli.arguments import add_recipe


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "prepare",
        help="tokenise a run's data ahead of time",
        description="Read and tokenise the data of a run into the cache, where `fit` and `preview` find it.",
    )
    add_recipe(parser)


def run(args: argparse.Namespace) -> int:
    from glm_train.config.compose import compose

    config = compose(args.recipe, args.overrides)
    from glm_train.bar import progress_bar
    from glm_train.build_data import build_data, build_tokenizer

    tokenizer, model_config = build_tokenizer(config)
    with progress_bar() as progress:
        data = build_data(config, tokenizer, model_config, progress)
    reports = {"train": data.train.report}
    if data.validation is not None and config.data.validation is not None:
        reports["validation"] = data.validation.report
    for name, report in reports.items():
        first, *rest = str(report).splitlines()
        print(f"{name:<12}{first}", *(f"{'':12}{line}" for line in rest), sep="\n")
        print(f"{'':12}in {report.cache_folder}")
    return 0
