"""Fixtures of the tests with windows: a viewer with the plugin, and a pipeline without a model.

Run them under a display, for example ``xvfb-run -a -s "-screen 0 1600x1200x24" pytest tests/gui``.
"""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

import napari_busref
from napari_busref.runtime import progress as progress_module
from napari_busref.transforms.transform import Transform

MANIFEST = Path(napari_busref.__file__).with_name("napari.yaml")
GUI = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if GUI in item.path.parents:
            item.add_marker(pytest.mark.gui)


@pytest.fixture(autouse=True)
def no_worker_is_left(request):
    """Check that every worker has ended at the end of a test."""
    yield
    if "viewer" not in request.fixturenames:
        return
    from napari.qt.threading import WorkerBase
    from qtpy.QtCore import QThreadPool
    from qtpy.QtWidgets import QApplication

    assert QThreadPool.globalInstance().waitForDone(5000)
    QApplication.processEvents()
    assert not WorkerBase._worker_set


@pytest.fixture
def plugin(npe2pm):
    """Only this plugin, from the manifest of the checkout."""
    from npe2 import PluginManifest

    with npe2pm.tmp_plugin(manifest=PluginManifest.from_file(MANIFEST)) as tmp:
        yield tmp


@pytest.fixture
def viewer(plugin, plugin_settings, make_napari_viewer_proxy):
    """A viewer with the default Preferences."""
    return make_napari_viewer_proxy()


@pytest.fixture
def panel(viewer):
    _, widget = viewer.window.add_plugin_dock_widget("napari-busref", "Register and fuse")
    return widget


@pytest.fixture
def notes(monkeypatch):
    """The napari notifications of this test, as (severity, text)."""
    from napari.utils import notifications

    seen = []

    def keep(notification):
        seen.append((str(notification.severity), notification.message))

    notifications.notification_manager.notification_ready.connect(keep)
    yield seen
    notifications.notification_manager.notification_ready.disconnect(keep)


class FakePipeline:
    """Stands in for `register` and `fuse`: no model, a known shift.

    With `hold` it waits after its first stage until `go` is set or it is cancelled. With
    `hold_fusion` it waits in the fusion. With `deaf` it ignores cancellation.
    """

    shift = (2.0, -3.0)
    reliable = True
    found = True
    error: BaseException | None = None
    warning: str | None = None
    hold = False
    hold_fusion = False
    deaf = False

    def __init__(self):
        self.calls = []
        self.threads = []
        self.holding = threading.Event()
        self.go = threading.Event()
        self.cancelled = threading.Event()

    def register(self, fixed, moving, *, progress=None, cancel=None, **options):
        self.threads.append(threading.current_thread())
        self.calls.append({"fixed": fixed, "moving": moving, **options})
        reporter = progress_module.Reporter(progress, cancel)
        stopped = False
        try:
            reporter.step("aligning", 0.25)
            reporter.expect(0.9, 20.0)
            if self.hold:
                self.wait(reporter)
        except progress_module.Cancelled:
            self.cancelled.set()
            if options["on_cancel"] != "best":
                raise
            stopped = True
        if self.warning:
            warnings.warn(self.warning, UserWarning, stacklevel=1)
        if self.error is not None:
            raise self.error
        return self.result(fixed, moving, options["initial"], stopped)

    def wait(self, reporter):
        self.holding.set()
        while not self.go.wait(0.005):
            if not self.deaf:
                reporter.check()

    def fuse(self, fixed, moving, *, model, progress=None, cancel=None, **options):
        from napari_busref.fusion import FusionResult

        reporter = progress_module.Reporter(progress, cancel)
        reporter.step("fusing", 0.5)
        if self.hold_fusion:
            self.wait(reporter)
        self.calls[-1] |= {"fusion_model": model, "fusion": options}
        return FusionResult(
            fused=fixed.copy(), parameters={"model": "fake"}, timings={"network": 0.01}
        )

    def result(self, fixed, moving, initial, stopped=False):
        from napari_busref.registration import RegistrationResult
        from napari_busref.registration.quality import Evidence, Quality

        shapes = fixed.shape[:2], moving.shape[:2]
        start = initial or Transform.equal_field_of_view(*shapes)
        displacement = np.empty((2, *shapes[0]), np.float32)
        displacement[0], displacement[1] = self.shift
        transform = Transform(
            start.affine, displacement, fixed_shape=shapes[0], moving_shape=shapes[1]
        )
        mask = transform.mask()
        quality = Quality(
            score=0.9 if self.reliable else 0.1,
            reliable=self.reliable,
            reasons=() if self.reliable else ("edges <do not> agree",),
            overlap=float(mask.mean()),
            min_jacobian=1.0,
            edge_agreement=0.5,
            edge_agreement_before=0.2,
            shift_px=3.6,
            rotation_deg=0.0,
            scale=1.0,
            evidence=Evidence(0.5, 1.0) if self.found and not stopped else None,
            status="cancelled" if stopped else "registered" if self.found else "not registered",
        )
        return RegistrationResult(
            warped=transform.apply(moving),
            mask=mask,
            transform=transform,
            quality=quality,
            timings={"network": 0.01},
            parameters={"model": "fake"},
        )


@pytest.fixture
def fake(monkeypatch):
    pipeline = FakePipeline()
    monkeypatch.setattr("napari_busref.registration.register", pipeline.register)
    monkeypatch.setattr("napari_busref.fusion.fuse", pipeline.fuse)
    yield pipeline
    pipeline.go.set()
