"""The command `explain`: of image files with a bundle, or as a step of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radtransfer.cli.options import Out, Seed, Threads
from radtransfer.errors import RadtransferError

FILES, STEP = "Image files, by a bundle", "Test images of a run, by the models of every TL source"
OF_FILES = {"images": "image files", "bundle": "--bundle", "with_gradcam": "--gradcam/--no-gradcam"}
NEEDED = {
    "target_store": "--target-store",
    "evaluation": "--evaluation",
    "classifiers": "--classifiers",
    "models": "--models",
}
OF_STEP = NEEDED | {"images_per_outcome": "--images-per-outcome", "quality_images": "--quality-images"}


def explain(
    context: typer.Context,
    out: Out,
    images: Annotated[
        list[Path] | None, typer.Argument(help="PNG, JPEG or DICOM files, with --bundle.", show_default=False)
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            help="Bundle that `register` or `run` made: its folder, or REGISTRY#NAME@VERSION of a model registry.",
            rich_help_panel=FILES,
        ),
    ] = None,
    with_gradcam: Annotated[
        bool, typer.Option("--gradcam/--no-gradcam", help="Grad-CAM beside LIME.", rich_help_panel=FILES)
    ] = True,
    target_store: Annotated[Path | None, typer.Option(help="Image store of the target.", rich_help_panel=STEP)] = None,
    evaluation: Annotated[Path | None, typer.Option(help="Folder that `evaluate` wrote.", rich_help_panel=STEP)] = None,
    classifiers: Annotated[
        list[Path] | None,
        typer.Option(help="Folder that `classify` wrote; once for each TL source.", rich_help_panel=STEP),
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option(help="Fine-tuned model; once for each TL source and backbone.", rich_help_panel=STEP),
    ] = None,
    images_per_outcome: Annotated[
        int, typer.Option(min=0, help="Test images per outcome (TP, FP, FN, TN).", rich_help_panel=STEP)
    ] = 2,
    quality_images: Annotated[
        int, typer.Option(min=0, help="Test images that both methods are measured on.", rich_help_panel=STEP)
    ] = 16,
    lime_samples: Annotated[
        int, typer.Option("--samples", "--lime-samples", min=10, help="Perturbed images per LIME explanation.")
    ] = 200,
    seed: Seed = 0,
    threads: Threads = 2,
) -> None:
    """Show where the models look: Grad-CAM and LIME, of image files or of a run's test images.

    `radtransfer explain --bundle DIR IMAGE... --out DIR` explains image files: their overlays, index.html to look at
    and index.csv. Without image files and bundle it is the step of a run, which needs all that is listed for it below.
    """
    given = [name for name in (*OF_FILES, *OF_STEP) if context.get_parameter_source(name).name != "DEFAULT"]  # type: ignore[union-attr]
    of_files, of_step = ([name for name in given if name in form] for form in (OF_FILES, OF_STEP))
    if of_files and of_step:
        raise RadtransferError(
            f"explain: {OF_FILES[of_files[0]]} is for image files, {OF_STEP[of_step[0]]} for the test images of a run; "
            "leave one of them out"
        )
    if bundle and images:
        from radtransfer.explain.files import explain_files
        from radtransfer.registry.references import located

        with located(bundle, "bundle") as folder:
            explain_files(
                bundle=folder, images=images, lime_samples=lime_samples, with_gradcam=with_gradcam, seed=seed,
                threads=threads, out=out,
            )  # fmt: skip
        print(out / "index.html")
        return
    if of_files:
        lacking = "name the image files to explain" if bundle else "name the bundle with --bundle"
        raise RadtransferError(f"explain: {OF_FILES[of_files[0]]} alone will not do; {lacking}")
    if not (target_store and evaluation and classifiers and models):
        lacking = ", ".join(option for name, option in NEEDED.items() if name not in of_step)
        raise RadtransferError(
            f"explain: {lacking} missing for the test images of a run; or name --bundle and image files"
        )
    from radtransfer.explain.run import explain as step

    step(
        target_store=target_store,
        evaluation=evaluation,
        classifiers=classifiers,
        models=models,
        images_per_outcome=images_per_outcome,
        lime_samples=lime_samples,
        quality_images=quality_images,
        seed=seed,
        threads=threads,
        out=out,
    )
