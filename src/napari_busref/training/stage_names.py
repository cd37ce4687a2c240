"""The training stages: their names and the classes behind them. Needs no torch."""

from __future__ import annotations

STAGE_CLASSES = {
    "bus": "bus:BusStage",
    "gaf": "gaf:GafStage",
    "registration": "registration:RegistrationStage",
    "matcher": "matcher:MatcherStage",
    "superfusion": "superfusion:SuperFusionStage",
    "likelihood": "likelihood:LikelihoodStage",
    "auto": "auto:AutoStage",
    "superfusion-fusion": "superfusion_fusion:SuperFusionFusionStage",
    "mda": "mda:MdaStage",
    "refusion": "refusion:ReFusionStage",
}
"""Name of a stage -> ``"module:Class"`` in ``training/stages/``."""

STAGES = tuple(STAGE_CLASSES)
"""The stages, in the order in which they build on each other."""
