"""Imported once by the server that worker processes are forked from: seconds of imports, paid once and not once a cell."""

import lm_eval.evaluator
import lm_eval.tasks
import pyarrow.parquet
import transformers.generation.utils
import transformers.modeling_utils
import transformers.models.auto.modeling_auto
import transformers.models.auto.tokenization_auto

import selbench.lm
import selbench.loop
import selbench.rollout.hf
import selbench.sweep
