from .finetuning.finetune import finetune, resume_finetuning
from .stage_names import STAGES
from .trainer import run

__all__ = ["STAGES", "finetune", "resume_finetuning", "run"]
