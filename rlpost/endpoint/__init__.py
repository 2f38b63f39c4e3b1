"""A thin client of model servers that speak OpenAI's HTTP interface: vLLM, SGLang, llama.cpp, hosted ones.

`Endpoint` retries and keeps deadlines; `rollout.EndpointEngine` samples with it, the reward `llm_judge` asks
a judge with it. The library `openai` is imported when the first request is sent.
"""

from rlpost.endpoint.client import Endpoint
from rlpost.endpoint.models import ServedModel
from rlpost.endpoint.replies import Reply
from rlpost.endpoint.settings import EndpointSettings

__all__ = ["Endpoint", "EndpointSettings", "Reply", "ServedModel"]
