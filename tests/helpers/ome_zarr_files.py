"""Small OME-Zarr images, written by zarr alone."""

from __future__ import annotations


def write(store, levels, *, version="0.5", axes="yx", omero=None, scale=1.0, **options):
    """Write a pyramid of arrays of these axes."""
    import zarr

    kinds = {"t": "time", "c": "channel"}
    entries = [
        {"name": name, "type": kinds.get(name, "space")}
        | ({} if name in kinds else {"unit": "micrometer"})
        for name in axes
    ]
    datasets = []
    group = zarr.open_group(store, mode="w", zarr_format=3 if version == "0.5" else 2)
    for number, level in enumerate(levels):
        options.setdefault("chunks", tuple(min(64, side) for side in level.shape))
        array = group.create_array(str(number), shape=level.shape, dtype=level.dtype, **options)
        array[...] = level
        steps = [
            full / side * (1.0 if name in kinds else scale)
            for name, full, side in zip(axes, levels[0].shape, level.shape, strict=True)
        ]
        step = {"type": "scale", "scale": steps}
        datasets.append({"path": str(number), "coordinateTransformations": [step]})
    image = {"name": "image", "axes": entries, "datasets": datasets}
    ome = {"version": version, "multiscales": [image]} | ({"omero": omero} if omero else {})
    if version == "0.5":
        group.attrs["ome"] = ome
    else:
        image["version"] = version
        group.attrs.update({"multiscales": [image]} | ({"omero": omero} if omero else {}))
    return store
