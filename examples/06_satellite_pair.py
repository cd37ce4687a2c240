"""Register two GeoTIFFs of different pixel size.

    python examples/06_satellite_pair.py [--napari]

A drawn landscape stands in for your files: a visible image of 0.5 m and a thermal image of 1.5 m
a pixel. Their map positions disagree by about 11 m and 2 degrees. The map gives the initial
transform, and the result is a thermal GeoTIFF on the grid of the visible one. `--napari` opens
both files as layers at their map coordinates, where docs/tutorials/satellite.md continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage as ndi
from scipy.spatial import cKDTree
from skimage.draw import line, polygon

from napari_busref import ImageGrid, Transform, register, write_transform

OUT = Path("example-output/06_satellite_pair")
# TIFF tags of GeoTIFF: pixel size, position of pixel (0, 0), and map projection
PIXEL_SCALE, TIEPOINT, GEO_KEYS = 33550, 33922, 34735
UTM_33N = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)


def main(napari_too: bool) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    write_pair(OUT / "visible.tif", OUT / "thermal.tif")
    fixed, fixed_grid = read_geotiff(OUT / "visible.tif")
    moving, moving_grid = read_geotiff(OUT / "thermal.tif")
    for name, grid in (("visible", fixed_grid), ("thermal", moving_grid)):
        print(f"{name}: {grid.shape} pixels of {grid.spacing[0]} m")
    if napari_too:
        open_in_napari(fixed, fixed_grid, moving, moving_grid)
        return

    # Pixel of the visible image -> map -> pixel of the thermal image.
    initial = Transform(
        np.linalg.inv(moving_grid.matrix) @ fixed_grid.matrix,
        fixed_shape=fixed_grid.shape,
        moving_shape=moving_grid.shape,
    )
    result = register(fixed, moving, initial=initial)
    print(f"quality {result.quality.score:.2f}, reliable: {result.quality.reliable}")
    for words, transform in (("map", initial), ("registration", result.transform)):
        print(f"off by the {words}: {metres_off(transform):.1f} m")

    write_geotiff(OUT / "thermal_on_visible.tif", result.warped, fixed_grid)
    # In metres of the map, for SimpleITK, ANTs or 3D Slicer.
    write_transform(
        OUT / "thermal_to_visible.nrrd", result.transform, fixed=fixed_grid, moving=moving_grid
    )
    print(f"files in {OUT.resolve()}")


def open_in_napari(
    fixed: np.ndarray, fixed_grid: ImageGrid, moving: np.ndarray, moving_grid: ImageGrid
) -> None:
    """Open both images at their map positions, relative to the corner of the visible one."""
    import napari

    viewer = napari.Viewer()
    add_layers(viewer, fixed, fixed_grid, moving, moving_grid)
    viewer.window.add_plugin_dock_widget("napari-busref", "Register and fuse")
    napari.run()


def add_layers(viewer, fixed, fixed_grid, moving, moving_grid) -> None:
    # Graphics cards compute with 7 digits, too few for metres from the equator.
    corner = np.asarray(fixed_grid.origin)
    for image, grid, name in ((fixed, fixed_grid, "visible"), (moving, moving_grid, "thermal")):
        place = {
            "scale": grid.spacing,
            "translate": np.asarray(grid.origin) - corner,
            "units": ("m", "m"),
            "axis_labels": ("southing", "easting"),
        }
        if image.ndim == 2:
            place |= {"colormap": "inferno", "opacity": 0.6}
        viewer.add_image(image, name=name, rgb=image.ndim == 3, **place)
    viewer.reset_view()


def read_geotiff(path: Path) -> tuple[np.ndarray, ImageGrid]:
    """Read an image and its map position. Rows go south, so northings are negative."""
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        width, height = tags[PIXEL_SCALE].value[:2]
        col, row, _, east, north = tags[TIEPOINT].value[:5]
        image = file.asarray()
    # The tie point is a corner. The origin of a grid is the centre of pixel (0, 0).
    origin = ((0.5 - row) * height - north, (0.5 - col) * width + east)
    return image, ImageGrid(image.shape[:2], spacing=(height, width), origin=origin, unit="m")


def write_geotiff(path: Path, image: np.ndarray, grid: ImageGrid) -> None:
    """Write an image with its map position."""
    height, width = grid.spacing
    corner = (grid.origin[1] - width / 2, -grid.origin[0] + height / 2)
    tifffile.imwrite(
        path,
        image,
        photometric="rgb" if image.ndim == 3 else "minisblack",
        extratags=[
            (PIXEL_SCALE, "d", 3, (width, height, 0.0), True),
            (TIEPOINT, "d", 6, (0.0, 0.0, 0.0, *corner, 0.0), True),
            (GEO_KEYS, "H", len(UTM_33N), UTM_33N, True),
        ],
    )


# -- the landscape --------------------------------------------------------------------------------

PIXEL, THERMAL_PIXEL = 0.5, 1.5  # metres
MARGIN = 80  # of the drawn landscape around the visible image, in its pixels
VISIBLE, THERMAL = (560, 720), (220, 274)  # rows and columns
CORNER = (5_400_000.0, 455_000.0)  # northing, easting of the visible image
TURN, MISPLACED = np.deg2rad(2.0), (6.0, -9.0)  # errors of the map; metres


def metres_off(transform: Transform) -> float:
    """Mean error of a transform over a grid of positions, in metres."""
    rows, cols = np.mgrid[40:520:9j, 40:680:9j]
    places = np.stack([rows.ravel(), cols.ravel()], axis=1)
    found = transform.points(places)
    return float(np.linalg.norm(landscape_pixel(found) - (places + MARGIN), axis=1).mean() * PIXEL)


def landscape_pixel(thermal_pixel: np.ndarray) -> np.ndarray:
    """Map thermal pixels to pixels of the drawn landscape, (N, 2) to (N, 2)."""
    centred = (thermal_pixel - (np.asarray(THERMAL) - 1) / 2) * THERMAL_PIXEL / PIXEL
    turn = np.array([[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]])
    turned = centred @ turn.T
    bend = 3.0 * np.sin(turned[:, ::-1] / 110)  # of the lens
    middle = MARGIN + (np.asarray(VISIBLE) - 1) / 2
    return turned + bend + middle + np.asarray(MISPLACED) / PIXEL


def write_pair(visible_path: Path, thermal_path: Path) -> None:
    """Draw the landscape, and write both images of it with their inexact map positions."""
    colour, heat = draw_landscape(tuple(n + 2 * MARGIN for n in VISIBLE))
    inside = slice(MARGIN, -MARGIN)
    origin = (-CORNER[0] + PIXEL / 2, CORNER[1] + PIXEL / 2)
    grid = ImageGrid(VISIBLE, spacing=(PIXEL, PIXEL), origin=origin, unit="m")
    write_geotiff(visible_path, colour[inside, inside], grid)
    pixels = np.stack(np.mgrid[: THERMAL[0], : THERMAL[1]], axis=-1).reshape(-1, 2)
    blurred = ndi.gaussian_filter(heat, (THERMAL_PIXEL / PIXEL - 1) / 2)
    seen = ndi.map_coordinates(blurred, landscape_pixel(pixels).T, order=1, mode="nearest")
    noise = np.random.default_rng(2).normal(0, 1.5, THERMAL)
    thermal = np.clip(255 * seen.reshape(THERMAL) + noise, 0, 255).astype(np.uint8)
    # On the map, both have the same centre.
    size = np.asarray(THERMAL) - 1
    middle = np.asarray(origin) + (np.asarray(VISIBLE) - 1) / 2 * PIXEL
    origin = tuple(middle - size / 2 * THERMAL_PIXEL)
    spacing = (THERMAL_PIXEL, THERMAL_PIXEL)
    write_geotiff(thermal_path, thermal, ImageGrid(THERMAL, spacing, origin, unit="m"))


def draw_landscape(shape: tuple[int, int], seed: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Fields, a river, roads, houses and trees from above: RGB uint8, and heat in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[: shape[0], : shape[1]].astype(float)
    wave = [ndi.gaussian_filter(rng.normal(size=shape), 40) for _ in range(2)]
    grain = ndi.gaussian_filter(rng.normal(size=shape), 1.2)
    bent = np.stack([rows + 900 * wave[0], cols + 900 * wave[1]], axis=-1)
    seeds = rng.uniform(0, 1, (45, 2)) * shape
    distance, field = cKDTree(seeds).query(bent, k=2)
    which = field[..., 0]
    # The crop sets the colour of a field, its moisture the heat.
    crops = np.array(
        [[92, 120, 58], [126, 138, 74], [150, 128, 92], [70, 100, 52], [172, 158, 104]]
    )
    colour = crops[rng.integers(0, len(crops), len(seeds))][which].astype(float)
    heat = rng.uniform(0.25, 0.62, len(seeds))[which]
    direction = rng.uniform(0, np.pi, len(seeds))[which]
    furrows = np.sin((rows * np.cos(direction) + cols * np.sin(direction)) * 0.9)
    colour += 6 * furrows[..., None] + 25 * grain[..., None]
    heat += 0.03 * grain

    def lay(where: np.ndarray, rgb: tuple[float, float, float], temperature: float) -> None:
        colour[where] = rgb + 18 * grain[where][:, None]
        heat[where] = temperature + 0.03 * grain[where]

    lay(distance[..., 1] - distance[..., 0] < 5, (60, 84, 46), 0.30)  # hedges
    river = cols - shape[1] * 0.3 - 60 * np.sin(rows / 130) - 30 * np.sin(rows / 47)
    lay(np.abs(river) < 26, (52, 74, 86), 0.12)
    road = np.ones(shape, bool)
    road[line(0, shape[1] - 90, shape[0] - 1, shape[1] // 2)] = False
    road[line(shape[0] // 3, 0, shape[0] // 2, shape[1] - 1)] = False
    road[line(shape[0] - 120, 0, shape[0] - 190, shape[1] - 1)] = False
    along = ndi.distance_transform_edt(road)
    lay(along < 7, (124, 122, 120), 0.78)
    for _ in range(260):
        middle = rng.uniform(0, 1, 2) * shape
        row, col = middle.astype(int)
        if np.abs(river[row, col]) < 45 or along[row, col] < 16:
            continue
        if along[row, col] < 60:  # houses stand along roads
            size, angle = rng.uniform(6, 15, 2), rng.uniform(0, np.pi)
            corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * size
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            roof = np.zeros(shape, bool)
            roof[polygon(*(corners @ turn.T + middle).T, shape)] = True
            lay(np.roll(roof, (4, 5), (0, 1)), (44, 48, 44), 0.28)  # its shadow
            red = rng.uniform(size=2)
            lay(roof, (120 + 70 * red[0], 96 + 40 * red[1], 90.0), rng.uniform(0.6, 0.98))
        else:
            lay(np.hypot(rows - row, cols - col) < rng.uniform(4, 10), (44, 70, 38), 0.22)
    picture = ndi.gaussian_filter(colour, (0.6, 0.6, 0))
    return np.clip(picture, 0, 255).astype(np.uint8), np.clip(ndi.gaussian_filter(heat, 0.8), 0, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--napari", action="store_true", help="open the pair in napari instead")
    main(parser.parse_args().napari)
