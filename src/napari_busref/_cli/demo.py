"""The command demo: register and fuse a built-in sample whose warp is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from napari_busref._cli.console import (
    Bars,
    escape,
    interruptible,
    is_quiet,
    log,
    out,
    tell,
)
from napari_busref._cli.options import Device, FusionModel, Model
from napari_busref.batch.files import output_folder, write_json

if TYPE_CHECKING:
    from napari_busref.data.samples import Sample
    from napari_busref.pipeline import RegistrationAndFusionResult
    from napari_busref.transforms.transform import Transform


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the pictures.")
    ] = Path("busref-demo"),
    sample: Annotated[
        Literal["thermal", "stain"],
        typer.Option(help="A street at dusk (thermal) or two stains of a tissue (stain)."),
    ] = "thermal",
    model: Model = "auto",
    fusion_model: FusionModel = "gaf",
    device: Device = "auto",
) -> None:
    """Register and fuse a built-in sample, compare with the true warp and write pictures.

    It replaces the pictures of an earlier demo in the folder.
    """
    from napari_busref.data.samples import load_sample
    from napari_busref.images.io import write_image
    from napari_busref.pipeline import register_and_fuse
    from napari_busref.transforms.transform import Transform

    output_folder(output)
    pair = load_sample(sample)
    with interruptible() as cancel, Bars() as bars:
        both = register_and_fuse(
            pair.fixed,
            pair.moving,
            model=model,
            fusion_model=fusion_model,
            device=device,
            progress=bars.add(pair.title),
            cancel=cancel,
        )
    assert both.fusion is not None  # a cancelled call raises
    result = both.registration
    start = Transform.equal_field_of_view(pair.fixed.shape[:2], pair.moving.shape[:2])
    before, after = (
        end_point_error(start, pair.truth),
        end_point_error(result.transform, pair.truth),
    )
    written = _write_pictures(output, pair, both, start, write_image)
    result.transform.save(output / "transform.busref.h5", metadata={"sample": pair.name})
    write_json(
        output / "report.json",
        {
            "sample": pair.name,
            "end_point_error_px": {"before": before, "after": after},
            "quality": result.quality,
            "timings": {"registration": result.timings, "fusion": both.fusion.timings},
            "parameters": result.parameters,
        },
    )
    table = Table(title=pair.title, title_justify="left")
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("end-point error (px)", f"{before:.2f}", f"{after:.2f}")
    quality = result.quality
    table.add_row(
        "edge agreement", f"{quality.edge_agreement_before:.3f}", f"{quality.edge_agreement:.3f}"
    )
    tell(table)
    if not quality.reliable:
        reasons = "; ".join(quality.reasons)
        log.warning(f"the registration may be wrong: {reasons}")
    tell(f"Pictures in {escape(str(output.resolve()))}: {', '.join(written)}")
    if is_quiet():
        out().print(escape(str(output / "report.json")))


def end_point_error(estimate: Transform, truth: Transform) -> float:
    """Compute the mean distance in pixels between estimated and true sources.

    It averages over the fixed pixels whose true source lies inside the moving image.
    """
    import numpy as np

    mask = truth.mask()
    difference = estimate.flow()[:, mask] - truth.flow()[:, mask]
    return float(np.hypot(difference[0], difference[1]).mean())


def panels(
    pair: Sample, both: RegistrationAndFusionResult, start: Transform
) -> dict[str, tuple[str, Any]]:
    """Make the pictures of a result: from a file stem to (title, uint8 RGB)."""
    import numpy as np

    from napari_busref._cli.pictures import flow_picture, overlay, to_rgb

    assert both.fusion is not None
    result = both.registration
    longest = float(np.hypot(result.flow[0], result.flow[1]).max())
    return {
        "fixed": ("fixed", to_rgb(pair.fixed)),
        "moving": ("moving", to_rgb(pair.moving)),
        "overlay_before": ("before", overlay(pair.fixed, start.apply(pair.moving))),
        "overlay_after": ("after", overlay(pair.fixed, result.warped)),
        "warped": ("warped", to_rgb(result.warped)),
        "mask": ("reconstructible mask", to_rgb(result.mask)),
        "flow": (f"displacement, up to {longest:.0f} px", flow_picture(result.flow)),
        "fused": ("fused", to_rgb(both.fusion.fused)),
    }


def _write_pictures(
    output: Path, pair: Sample, both: RegistrationAndFusionResult, start: Transform, write: Any
) -> list[str]:
    from napari_busref._cli.pictures import overview

    pictures = panels(pair, both, start)
    for stem, (_, picture) in pictures.items():
        write(output / f"{stem}.png", picture)
    write(output / "overview.png", overview(list(pictures.values())))
    return [f"{stem}.png" for stem in ["overview", *pictures]]
