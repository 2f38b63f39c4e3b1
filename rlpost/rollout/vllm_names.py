"""Names that both ends of a vLLM engine use: the worker's process and the engine's own."""

PROCESS_MODULE = "rlpost.rollout.vllm_process"
"""The module that vLLM's processes import."""

BACKEND = "rlpost"
"""The weight-transfer backend that it registers."""

OWNER_VARIABLE = "RLPOST_ENGINE_OWNER"
"""The environment variable with the id of the process that the engine must not outlive."""

VOCABULARY_KEY = "rlpost_vocabulary"
"""The key of vLLM's additional configuration with the number of ids that may be sampled."""

ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""The executor that keeps the model in the engine's own process, in the form that vLLM lets pass on a CPU."""
