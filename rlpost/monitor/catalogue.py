"""Every metric that a run emits: name, unit, exact formula, healthy range.

`docs/metrics.md` is generated from this table, and `MetricsWriter` refuses names that are not in
it, so the page cannot lag behind the code.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, or a family of them.

    Attributes:
        name: "group/name"; a `*` stands for any text, as in "reward/part/*".
        unit: what 1 means.
        formula: how it is computed, exactly.
        healthy: the range to expect, or what it means to be off.
        low: below this a report warns; None never warns.
        high: above this a report warns; None never warns.
    """

    name: str
    unit: str
    formula: str
    healthy: str
    low: float | None = None
    high: float | None = None

    def warning(self, value: float) -> str | None:
        """What is wrong with the value, or None."""
        if self.low is not None and value < self.low:
            return f"below {self.low:g}"
        if self.high is not None and value > self.high:
            return f"above {self.high:g}"
        return None


_STEP = (
    Metric("step", "steps", "steps of the run so far, over all stages, from 1", "rises by 1"),
    Metric("stage", "name", "the stage's name in the configuration", "text, not a number"),
)

_DATA = (
    Metric("data/epoch", "passes", "complete passes over the prompts before this step", "rises slowly"),
    Metric(
        "data/prompts",
        "prompts",
        "prompts sampled (or demonstrations used) in this step",
        "`prompts_per_step`; with a selection that refills, that or more",
    ),
    Metric("data/rows", "rows", "rows of the dataset that were looked at", "constant"),
    Metric(
        "data/rows_broken",
        "rows",
        "rows of the dataset left out because they cannot be used; at most `data.max_broken_share` of them",
        "0; the first ones are named where the run begins",
    ),
    Metric(
        "data/rows_broken/*",
        "rows",
        "those of `data/rows_broken` with one reason: `not_json`, `missing_column`, `wrong_type`, `empty`, "
        "`messages` (nobody can answer them here) or `conflict` (of two ids, or of two answers)",
        "absent; rows = broken + `data/prompts_dropped` + the prompts",
    ),
    Metric(
        "data/prompts_dropped",
        "prompts",
        "prompts of the dataset left out for their length (`overlong_prompts: drop`)",
        "constant; a large share of the dataset means `max_prompt_tokens` is too small",
    ),
    Metric(
        "data/prompts_truncated",
        "prompts",
        "prompts of the dataset cut to `max_prompt_tokens` (`overlong_prompts: truncate`)",
        "constant; a cut problem may have lost its question",
    ),
)

_DEMONSTRATIONS = (
    Metric(
        "demonstrations/rows",
        "rows",
        "demonstrations in this step's batch; of pairs both responses",
        "`prompts_per_step`; twice as many with pairs",
    ),
    Metric(
        "demonstrations/tokens",
        "tokens",
        "tokens of them that are to be learnt: the assistant's, each turn with its EOS",
        "as long as the data has them",
    ),
    Metric(
        "demonstrations/logprob_mean",
        "nats",
        "mean over these tokens of log π_θ; without the rows that gates have closed",
        "rises towards 0 while they are learnt; far below −1 they are unlike what the policy says",
    ),
    Metric(
        "demonstrations/entropy",
        "nats",
        "mean over the same of −Σ_v π(v) log π(v)",
        "falls while they are learnt",
    ),
    Metric(
        "data/demonstrations_missing",
        "prompts",
        "prompts of the dataset without a demonstration; with a `demonstration_column`",
        "0; only `source: both` lets them in",
    ),
    Metric(
        "data/demonstrations_dropped",
        "demonstrations",
        "those longer than `data.max_demonstration_tokens` that were left out; where nothing is sampled with "
        "their rows",
        "0, or a few with `overlong_demonstrations: drop`",
    ),
    Metric(
        "data/demonstrations_truncated",
        "demonstrations",
        "those longer than `data.max_demonstration_tokens` that lost their end; no EOS was put there",
        "0, or a few with `overlong_demonstrations: truncate`",
    ),
    Metric(
        "demonstrations/missing",
        "prompts",
        "prompts of the batch without a demonstration; only with `source: both`",
        "0; their samples are trained alone",
        high=0,
    ),
    Metric(
        "demonstrations/alone",
        "prompts",
        "prompts of the batch with a demonstration, but no response that could be scored; only with "
        "`source: both`",
        "0; gates that count right responses leave them out",
        high=0,
    ),
)

_ROLLOUT = (
    Metric(
        "rollout/samples",
        "responses",
        "responses sampled in this step, in all its rounds, greedy ones not counted",
        "`data/prompts` × `samples_per_prompt`",
    ),
    Metric(
        "rollout/rounds",
        "rounds",
        "rounds of sampling in this step; only with a selection that refills",
        "1 to 3; at `max_rounds` most prompts teach nothing",
    ),
    Metric(
        "rollout/greedy_samples",
        "responses",
        "greedy responses of this step, one for each prompt; only where the algorithm compares with them",
        "`data/prompts`",
    ),
    Metric(
        "rollout/greedy_failures",
        "responses",
        "greedy responses that failed to score; all responses to their prompts leave the update",
        "0",
        high=0,
    ),
    Metric(
        "rollout/response_tokens_mean",
        "tokens",
        "mean over responses of the tokens after the prompt, an environment's included",
        "moves slowly; steady growth to the limit is length exploitation",
    ),
    Metric(
        "rollout/response_tokens_max", "tokens", "longest response", "at most `max_response_tokens` a turn"
    ),
    Metric(
        "rollout/truncated_share",
        "share",
        "responses with finish reason `length`, or of episodes that a limit ended / responses",
        "below 0.1 once trained; above 0.3 the limit is too small for what the model wants to say",
        high=0.3,
    ),
    Metric(
        "rollout/dropped_samples",
        "responses",
        "responses left out of the update because scoring them, or their prompt's greedy response, failed",
        "0; see `scoring/timeout` and `scoring/error`",
        high=0,
    ),
    Metric(
        "rollout/version_lag_max",
        "versions",
        "max over trained tokens of (the learner's version - the version that sampled the token)",
        "0 when synchronous; never above `train.max_staleness`",
    ),
    Metric(
        "rollout/version_lag_mean",
        "versions",
        "mean of the same over trained tokens",
        "well below `train.max_staleness`, unless workers are ahead all the time",
    ),
    Metric(
        "rollout/version_lag/*",
        "share",
        "trained tokens that lag this many versions behind / trained tokens",
        "all at 0 when synchronous",
    ),
    Metric(
        "rollout/batches_ahead",
        "steps",
        "later steps whose responses were still being sampled when this step's were complete",
        "at most `train.max_staleness`",
    ),
    Metric(
        "rollout/worker_restarts",
        "workers",
        "rollout workers that were lost and replaced since the last step's batch was complete",
        "0",
        high=0,
    ),
    Metric(
        "rollout/resubmitted_samples",
        "responses",
        "responses that lost workers had not finished, sampled anew by their successors",
        "0",
    ),
)

_EPISODES = (
    Metric(
        "rollout/turns_mean",
        "turns",
        "mean over episodes of the model's turns; this and `environment/*` only with an environment",
        "between 1 and `environment.max_turns`; at the limit, episodes are cut off instead of finished",
    ),
    Metric("rollout/turns_max", "turns", "most turns of an episode", "at most `environment.max_turns`"),
    Metric(
        "environment/end/*",
        "episodes",
        "episodes of this step that ended so: `done` (its environment said so), `turn_limit`, `token_limit` "
        "(`environment.max_episode_tokens`, or the model's positions), `timeout` or `error` (the environment "
        "failed: such an episode is counted as a `scoring` failure too, and never trained on)",
        "`done` for nearly all; the notes of failures are in rollouts/",
    ),
    Metric(
        "environment/observation_token_share",
        "share",
        "tokens that environments said / all tokens after the prompts; they are never trained on",
        "depends on the task; near 1 the time goes into reading",
    ),
    Metric(
        "environment/cut_observations",
        "observations",
        "observations longer than `environment.max_observation_tokens`, cut at the end of their content",
        "0; otherwise the model does not read all that it was told",
    ),
    Metric(
        "environment/wait_s",
        "s",
        "seconds between messages and their environment's answers, summed over those since the last step; "
        "episodes wait side by side, and inline for the slowest of them",
        "small beside `time/rollout_s` × the responses decoded at a time",
    ),
    Metric(
        "environment/process_restarts",
        "processes",
        "processes of environments that were lost, or ended for an answer that took too long, and replaced",
        "0",
        high=0,
    ),
)

_SCORING = (
    Metric("scoring/scored", "responses", "responses with outcome `scored`", "all of them"),
    Metric(
        "scoring/unparseable",
        "responses",
        "responses examined by the verifier that hold no answer (they keep their score)",
        "falls as the model learns the format",
    ),
    Metric(
        "scoring/timeout",
        "responses",
        "responses whose scoring was killed at `scoring.deadline_s`, or whose environment took too long; "
        "never trained on",
        "0 or few; many mean the verifier hangs or the machine is overloaded",
        high=0,
    ),
    Metric(
        "scoring/error",
        "responses",
        "responses whose reward function or environment raised, died or returned no finite number; "
        "never trained on",
        "0; read the notes in rollouts/",
        high=0,
    ),
    Metric(
        "scoring/repeated",
        "calls",
        "calls of a reward function made again for one response, because the batch that held it failed "
        "(`batch_size` of the reward)",
        "0 or few; many cost time, and a smaller batch would lose less",
    ),
)

_REWARD = (
    Metric("reward/mean", "reward", "mean score of the scored responses", "rises"),
    Metric(
        "reward/std",
        "reward",
        "sqrt(mean((r - mean r)^2)) over the scored responses of the step",
        "above 0; at 0 every response earned the same and nothing can be learned",
    ),
    Metric(
        "reward/part/*",
        "reward",
        "mean of that named part over the responses that have it, before its weight: each reward function's "
        "score, and the other numbers that it returns; `environment` is what an environment gave, and its "
        "numbers are `environment/NAME`",
        "shows which part moves",
    ),
    Metric(
        "reward/variant/*/mean",
        "reward",
        "mean score of the scored responses to prompts of that variant (`data.variant_column`)",
        "rises; of guided and unguided problems first the guided ones",
    ),
    Metric(
        "reward/variant/*/solved",
        "prompts",
        "prompts of that variant to which some response of the stage scored 1 or more so far",
        "rises, at most to the number of such prompts in the data",
    ),
)

_SIGNAL = (
    Metric(
        "signal/groups",
        "groups",
        "prompts of the batch with at least one scored response",
        "`prompts_per_step`",
    ),
    Metric(
        "signal/uninformative_groups",
        "groups",
        "prompts sampled in this step that refilling passed over: their task rewards were all equal, or "
        "fewer than two could be scored",
        "below `data/prompts` / 2; they cost as much as the others",
    ),
    Metric(
        "signal/surplus_groups",
        "groups",
        "informative groups beyond `prompts_per_step`, dropped by refilling",
        "few; later rounds ask for about as many prompts as are needed",
    ),
    Metric(
        "signal/missing_groups",
        "groups",
        "`prompts_per_step` − informative groups, when refilling had no rounds or no prompts left",
        "0; the step trained on fewer groups",
        high=0,
    ),
    Metric(
        "signal/informative_group_share",
        "share",
        "groups whose rewards are not all equal / groups of samples; "
        "1 - p^G - (1-p)^G for pass rate p, G samples",
        "0.3 to 1; near 0 the prompts are too easy or too hard, and steps teach nothing",
        low=0.05,
    ),
    Metric(
        "signal/nonzero_response_share",
        "share",
        "sampled responses with an advantage ≠ 0 in a term whose gate is open to them, before any selection "
        "that reads advantages / sampled responses (DCPO calls it response utilisation ratio)",
        "near `signal/informative_group_share`, or above it with per-prompt statistics",
    ),
    Metric(
        "signal/nonzero_advantage_share",
        "share",
        "trained tokens of samples with advantage ≠ 0 / trained tokens of samples",
        "near `signal/informative_group_share`; at 0 the loss is 0 and the step changes nothing",
    ),
    Metric(
        "signal/trained_token_share",
        "share",
        "sampled tokens that enter the loss / tokens the policy sampled",
        "1 unless a selection drops sequences",
    ),
    Metric(
        "signal/dropped_groups",
        "groups",
        "groups of samples that selection removed entirely",
        "0 without selection",
    ),
    Metric(
        "signal/dropped_sequences", "responses", "responses that selection removed", "0 without selection"
    ),
)

_HYBRID = (
    Metric(
        "hybrid/gated_share",
        "share",
        "prompts whose rollouts' success rate is at most the gate's threshold, and which learn from their "
        "demonstration / prompts with rollouts",
        "falls as the policy learns; near 1 the run is supervised, at 0 it is reinforcement alone",
    ),
    Metric(
        "hybrid/without_demonstration",
        "share",
        "prompts at or below the gate's threshold that have no demonstration / prompts with rollouts",
        "0; the gate's `without_demonstration` says what they learn from",
    ),
    Metric(
        "hybrid/solved_all_share",
        "share",
        "prompts whose rollouts all succeed / prompts with rollouts; with any gate that counts successes",
        "rises; such prompts teach nothing more",
    ),
    Metric(
        "hybrid/pass_count/*",
        "share",
        "prompts with that number of successful rollouts / prompts with rollouts",
        "moves from 0 towards `samples_per_prompt`",
    ),
)

_SELECTION = (
    Metric(
        "selection/kept_sequence_share",
        "share",
        "sampled responses that the selections leave / sampled responses",
        "1 with `all`; with a schedule, rises from `start` to `end`",
    ),
    Metric(
        "selection/kept_token_share",
        "share",
        "tokens of those responses that the selections leave to the policy loss / sampled tokens",
        "with `d3s`, about the product of its two shares",
    ),
    Metric(
        "selection/variance_before",
        "squared advantage",
        "mean((A − mean A)²) over sampled responses, A the first term's advantage, before the selections "
        "that read it",
        "near `signal/informative_group_share` with group-normalised advantages",
    ),
    Metric(
        "selection/variance_after",
        "squared advantage",
        "the same over the responses that are left",
        "with `max_variance` or `d3s`, above `selection/variance_before` until everything is kept",
    ),
    Metric(
        "selection/all_right_prompts",
        "prompts",
        "prompts all of whose rollouts are right, which `one_right_one_wrong` leaves out",
        "few; else the prompts are too easy",
    ),
    Metric(
        "selection/all_wrong_prompts",
        "prompts",
        "prompts none of whose rollouts is right, which `one_right_one_wrong` leaves out",
        "few; else the prompts are too hard",
    ),
    Metric(
        "selection/useful_share",
        "share",
        "responses left with a mean advantage ≠ 0 / responses left",
        "near 1 while fewer are kept than have an advantage",
    ),
)

_ACE = (
    Metric(
        "ace/confidence_wrong_mean",
        "nats",
        "mean of ACE's c over sampled responses with a negative advantage; c = mean_t (old − log π_ref)",
        "0 at first; rises while the policy grows sure of its errors",
    ),
    Metric(
        "ace/overconfident_share",
        "share",
        "sampled responses with a negative advantage and c > 0 / those with a negative advantage",
        "falls, or rises slower than without ACE",
    ),
    Metric(
        "ace/multiplier_mean",
        "ratio",
        "mean of 1 + alpha softplus(c) over sampled responses with a negative advantage",
        "1 + 0.69 alpha while c = 0; 1 with `neutral`",
    ),
)

_CREDIT = (
    Metric(
        "credit/weight_mean_right",
        "weight",
        "mean of ω over the sampled tokens of all right responses; ω is the part of a token's advantage that "
        "a token reward model lets through",
        "0 until the model has learnt something, then above 0; where it is 0, right responses teach nothing",
    ),
    Metric(
        "credit/weight_mean_wrong",
        "weight",
        "the same of wrong responses",
        "as `credit/weight_mean_right`",
    ),
    Metric(
        "credit/zero_share",
        "share",
        "sampled tokens with ω = 0 / sampled tokens; the model takes them for the other outcome",
        "1 at a model that knows nothing, then falls",
    ),
)

_PREFERENCE = (
    Metric(
        "preference/pairs",
        "pairs",
        "pairs of two responses to a prompt with different rewards",
        "above 0: other groups say nothing",
        low=1.0,
    ),
    Metric(
        "preference/loss",
        "1",
        "mean over pairs of the paper's loss, of the policy before the step (`preference_loss`)",
        "falls; DPO begins at log 2 = 0.693",
    ),
    Metric(
        "preference/accuracy",
        "share",
        "pairs with D > 0: the better response is preferred, by more than the reference prefers it",
        "rises towards 1; 0 in the first step against a reference, because nothing differs from it yet",
    ),
    Metric(
        "preference/margin",
        "nats",
        "mean D over pairs, before beta: by how much the score of the better response is higher",
        "rises; without end where nothing holds it back",
    ),
    Metric(
        "preference/chosen_logprob",
        "nats",
        "mean over pairs of the better response's log-prob, summed over its tokens",
        "not much below where it began: the loss knows only the difference, so both may fall",
    ),
    Metric(
        "preference/rejected_logprob",
        "nats",
        "mean over pairs of the worse response's log-prob, summed over its tokens",
        "falls",
    ),
)

_DISTILLATION = (
    Metric(
        "distil/reverse_kl",
        "nats",
        "mean over sampled tokens of log pi - log pi_T, before the step: an estimate of KL(pi || pi_T)",
        "falls towards 0",
    ),
    Metric(
        "distil/teacher_logprob_mean",
        "nats",
        "mean over sampled tokens of the teacher's log-prob",
        "rises towards minus the teacher's entropy",
    ),
    Metric(
        "distil/clipped_share",
        "share",
        "sampled tokens whose gap |log pi_T - log pi| is above `clip`; only with a clip",
        "a few per cent",
    ),
)

_POLICY = (
    Metric(
        "policy/loss",
        "loss",
        "the loss as the method's paper writes it, regularisers included",
        "near 0 on the first update of a step for group-relative methods; not a measure of progress",
    ),
    Metric(
        "policy/loss/*",
        "loss",
        "`policy/loss` of one term of an objective that has several, by the term's name, its weight included",
        "falls, where the term is a likelihood; else only comparable to itself",
    ),
    Metric(
        "policy/trained_tokens/*",
        "tokens",
        "tokens with a weight in that term, over all updates of the step",
        "0 only where the term had no rows in this step",
    ),
    Metric(
        "policy/coefficient/*",
        "weight",
        "Σ_t weight_t |A_t| of that term, summed over the step's updates: how strongly it pulls, before "
        "ratios and masks",
        "of a size with the other terms; one that is far larger decides alone",
    ),
    Metric(
        "policy/surrogate",
        "loss",
        "Σ_t −weight_t m_t A_t exp(log π_θ,t − log π_den,t), regularisers included: what is differentiated",
        "finite",
    ),
    Metric(
        "policy/entropy",
        "nats",
        "mean over the sampled tokens of an update of −Σ_v π(v) log π(v), at the sampling temperature",
        "falls slowly; a fast fall to 0 ends exploration, a rise means noise",
    ),
    Metric(
        "policy/ratio_mean",
        "ratio",
        "mean over trained, sampled tokens of π_θ / π_den",
        "close to 1",
        0.8,
        1.25,
    ),
    Metric("policy/ratio_max", "ratio", "max over trained tokens of π_θ / π_den", "below about 10", high=100),
    Metric(
        "policy/clip_share_low",
        "share",
        "trained tokens that the mask dropped with ratio < 1 / trained tokens",
        "0 on the first update of a step, then below 0.2",
        high=0.3,
    ),
    Metric(
        "policy/clip_share_high",
        "share",
        "trained tokens that the mask dropped with ratio > 1 / trained tokens",
        "0 on the first update of a step, then below 0.2",
        high=0.3,
    ),
    Metric(
        "policy/kl_ref_k3",
        "nats",
        "mean over the sampled tokens of an update of exp(−l) − 1 + l with l = log π_θ − log π_ref",
        "grows slowly; above 1 the policy has left its reference",
        high=10,
    ),
    Metric(
        "policy/kl_coefficient",
        "coefficient",
        "weight of the KL term in this step; with a `target` it follows `policy/kl_ref_k3`",
        "constant, or settling; a steady rise means the target cannot be held",
    ),
    Metric(
        "policy/entropy_coefficient",
        "coefficient",
        "weight of the entropy term in this step; with a `target` it follows `policy/entropy`, and is 0 "
        "while the previous step was above",
        "constant, or settling; at `maximum` the target cannot be held",
    ),
    Metric(
        "policy/kl_loss", "loss", "coefficient × aggregated KL estimate", "small beside the rest of the loss"
    ),
    Metric(
        "policy/entropy_loss",
        "loss",
        "−coefficient × aggregated entropy",
        "small beside the rest of the loss",
    ),
)

_MISMATCH = (
    Metric(
        "mismatch/k3",
        "nats",
        "mean over trained, sampled tokens of w − 1 − log w w = exp(old − behaviour)",
        "below 0.001 with one engine and dtype; above 0.01 sampler and learner disagree",
        high=0.01,
    ),
    Metric(
        "mismatch/logprob_gap_mean",
        "nats",
        "mean over trained, sampled tokens of |old − behaviour|",
        "below 1e-4 in float32, below 0.02 in bfloat16",
        high=0.05,
    ),
    Metric(
        "mismatch/unknown_tokens",
        "tokens",
        "sampled tokens whose log-prob the sampler gave as NaN; their w counts as 1",
        "0",
        high=0.0,
    ),
    Metric(
        "mismatch/logprob_gap_max",
        "nats",
        "max over trained, sampled tokens of |old − behaviour|",
        "below 0.01 in float32; above 1 some tokens see other weights or another template",
        high=1.0,
    ),
    Metric(
        "mismatch/chi2",
        "ratio",
        "mean over trained, sampled tokens of w² − 1, w as in `mismatch/k3`",
        "below 0.05",
        high=0.2,
    ),
    Metric(
        "mismatch/sequence_chi2",
        "ratio",
        "mean over sequences of (Π_t w)² − 1, log Π w clamped to ±20",
        "grows with the length; in the hundreds a correction by sequence truncates nearly everything",
    ),
    Metric(
        "mismatch/log_perplexity_gap",
        "nats",
        "mean over sequences of mean_t (behaviour − old): log of the learner's perplexity over the sampler's",
        "near 0; a steady sign means one of the two is sharper",
    ),
    Metric(
        "mismatch/outside_share",
        "share",
        "trained, sampled tokens with w below 0.5 or above 2 / all of them",
        "below 0.001",
        high=0.01,
    ),
    Metric(
        "correction/factor_mean",
        "weight",
        "mean over the tokens of the policy losses with a correction of its factor, rejected tokens as 0",
        "close to 1",
        low=0.5,
        high=2.0,
    ),
    Metric(
        "correction/rejected_share",
        "share",
        "tokens that a correction gave factor 0 / tokens of the policy losses with a correction",
        "below 0.05; most of the batch rejected means sampler and learner no longer agree",
        high=0.3,
    ),
    Metric(
        "mismatch/ess",
        "share",
        "(mean w)² / mean w² over trained, sampled tokens, w as in `mismatch/k3`",
        "above 0.95",
        low=0.8,
    ),
)

_CRITIC = (
    Metric(
        "critic/loss",
        "reward²",
        "mean over sampled tokens and heads of ½ (V − G)², with `value_clip` of the larger of that and the "
        "same of V cut to V_old ± `value_clip`; V before each update, mean over the step's updates",
        "falls; that of a constant is half the variance of the returns",
    ),
    Metric(
        "critic/explained_variance",
        "share",
        "1 − Var(G − V) / Var(G) over sampled tokens, of the actor's head; absent where all G are equal",
        "rises from 0 towards 1; below 0 the values are worse than none",
        low=-1.0,
    ),
    Metric("critic/value_mean", "reward", "mean of V over sampled tokens", "close to `critic/return_mean`"),
    Metric(
        "critic/return_mean",
        "reward",
        "mean over sampled tokens of G, the returns V learns",
        "follows the reward",
    ),
    Metric(
        "critic/clip_share",
        "share",
        "values further than `value_clip` from V_old, which learn nothing / all; only with `value_clip`",
        "below 0.3; much above it slows the critic down",
    ),
    Metric(
        "critic/outcome_loss",
        "nats",
        "mean over responses of the cross-entropy of σ(mean_t w_t) and whether the response is right, w a "
        "token reward model's logits on sampled tokens, before each update",
        "falls from ln 2 = 0.693, what knowing nothing costs",
    ),
    Metric(
        "critic/outcome_accuracy",
        "share",
        "responses whose mean logit is above 0 exactly if they are right / those the model learns from",
        "rises above 0.5, of one right and one wrong response a prompt",
    ),
    Metric(
        "critic/grad_norm",
        "norm",
        "L2 norm of the gradient of what is the critic's own, before clipping, mean over the step's updates",
        "steady",
    ),
    Metric("critic/learning_rate", "rate", "learning rate of the critic's last update", "follows `schedule`"),
    Metric("critic/updates", "updates", "optimizer steps of the critic in this step", "`updates_per_step`"),
)

_ONE_TOKEN = (
    Metric(
        "otr/hit_share",
        "share",
        "mean over trained demonstration tokens of n/K, the share of the K drawn tokens that were the "
        "demonstration's; in the form `exact` the probability of that in the distribution drawn from; only "
        "with the actions `one_token`",
        "rises as the demonstrations become likely",
    ),
    Metric(
        "otr/no_hit_share",
        "share",
        "share of those tokens with n = 0, which are pushed by misses alone; not in the form `exact`",
        "falls; such tokens are not learnt from",
    ),
    Metric(
        "otr/miss_term_share",
        "share",
        "sum of |miss| (1 - n/K) over the same plus the sum of n/K: the part of the weight that misses have",
        "below 0.5 once the policy says some of the demonstrations; near 1, updates mostly push tokens away",
    ),
)

_GRADIENT = (
    Metric(
        "gradient/clipping_bias",
        "norm",
        "L2 norm of C, the gradient of the tokens that masks removed, over all ranks, mean over the step's "
        "updates; only with the transform `clipping_bias`",
        "steady; fast growth is said to come before a collapse",
    ),
    Metric(
        "gradient/clipping_scale",
        "share",
        "factor of the gradient, 1 / max(1, ‖C‖), or 1 / ‖C‖ in mode `literal`; mean over the step's updates",
        "1 where nothing is removed; in mode `guarded` never above 1",
    ),
)

_LEARNER = (
    Metric(
        "learner/grad_norm",
        "norm",
        "L2 norm of the whole gradient before clipping, after a transform, mean over the step's updates",
        "steady; spikes far above `max_grad_norm` that return each step are trouble",
    ),
    Metric("learner/learning_rate", "rate", "learning rate of the step's last update", "follows `schedule`"),
    Metric(
        "learner/trainable_parameters",
        "parameters",
        "of the policy, those that are trained",
        "the same all along",
    ),
    Metric(
        "learner/trainable_share",
        "share",
        "of the policy's parameters, adapters counted, those that are trained",
        "1 without `model.lora`; with it, often below 0.02",
    ),
    Metric(
        "learner/trained_tokens", "tokens", "tokens that entered the loss, over the step's updates", "above 0"
    ),
    Metric(
        "learner/microbatches",
        "passes",
        "forward and backward passes of the step, all ranks",
        "fewer is faster",
    ),
    Metric(
        "learner/passes",
        "passes",
        "backward passes of an update: 2 where a transform measures what masks removed (over those sequences "
        "alone, after a forward pass over all), otherwise 1; mean over updates; only with a transform",
        "from 1 to 2",
    ),
    Metric(
        "learner/oversized_sequences",
        "sequences",
        "sequences longer than `tokens_per_microbatch`; each made a micro-batch of its own",
        "0; otherwise memory exceeds what `tokens_per_microbatch` promises",
        high=0,
    ),
    Metric(
        "learner/updates",
        "updates",
        "optimizer steps of the policy in this step",
        "`updates_per_step`; 0 while a critic warms up",
    ),
    Metric(
        "learner/skipped_updates",
        "updates",
        "updates not taken, because no token of theirs had an advantage or a regulariser",
        "0; many mean that `signal/informative_group_share` is near 0",
    ),
)

_WEIGHTS = (
    Metric("weights/version", "version", "policy version the engines hold after the step", "rises"),
    Metric("weights/bytes", "bytes", "bytes of the tensors sent to one engine", "constant"),
    Metric("weights/tensors", "tensors", "tensors sent to one engine", "constant"),
    Metric(
        "weights/probe_gap",
        "nats",
        "max |log-prob of the engine − of the learner| over the probe's tokens; only on probed transfers",
        "below `weights.probe_tolerance`, else the run stops",
    ),
)

_EVALUATION = (
    Metric(
        "eval/accuracy",
        "share",
        "avg@n: mean over problems of (samples with score ≥ 1 / n); failures to score count as not correct",
        "rises; compare intervals, not points",
    ),
    Metric("eval/accuracy_low", "share", "lower end of its 95 % interval over problems", "-"),
    Metric("eval/accuracy_high", "share", "upper end of its 95 % interval over problems", "-"),
    Metric("eval/score_mean", "reward", "mean score of the samples that were scored", "rises"),
    Metric(
        "eval/pass@*",
        "share",
        "mean over problems of 1 − C(n−c, k) / C(n, k)",
        "pass@n bounds what RL can sharpen",
    ),
    Metric(
        "eval/maj@*", "share", "mean over problems: the majority of k answers is correct", "above accuracy"
    ),
    Metric(
        "eval/truncated_share", "share", "samples that hit the token limit / samples", "below 0.1", high=0.3
    ),
    Metric("eval/failed_share", "share", "samples that failed to score / samples", "0", high=0),
    Metric("eval/response_tokens_mean", "tokens", "mean tokens of a response", "as in training"),
    Metric(
        "eval/*/truncated_share", "share", "the same of a set of `evaluation.others`", "below 0.1", high=0.3
    ),
    Metric("eval/*/failed_share", "share", "the same of a set of `evaluation.others`", "0", high=0),
    Metric("eval/*/*", "-", "all these numbers of a set of `evaluation.others`, by its name", "-"),
    Metric("eval/*", "-", "any other number of an evaluation, by its own name in results.json", "-"),
)

_TIME = (
    Metric("time/step_s", "s", "wall time of the whole step", "the sum of the rest and little more"),
    Metric(
        "time/rollout_s",
        "s",
        "waiting until the step's responses were sampled and scored",
        "usually the largest; small when sampling runs ahead",
    ),
    Metric(
        "time/scoring_s",
        "s",
        "reward functions, beside sampling where workers are processes of their own",
        "small; otherwise raise `scoring.workers`",
    ),
    Metric("time/signals_s", "s", "forward passes for log-probs and entropy before the updates", "-"),
    Metric("time/update_s", "s", "forward, backward and optimizer", "-"),
    Metric("time/transfer_s", "s", "weights to the engines, proofs included", "small"),
    Metric("time/evaluation_s", "s", "evaluations during the step", "0 on most steps"),
    Metric("time/reprofile_s", "s", "responses to the turns that may become pivots", "0 on most steps"),
)

_PIVOTS = (
    Metric(
        "pivots/times_chosen",
        "times",
        "how often the stage's pivots were chosen anew (`pivots.reprofile`)",
        "rises when the pivots are learnt, up to `most`",
    ),
    Metric(
        "pivots/chosen",
        "turns",
        "pivots for the policy as it is, from the next step on; absent on most steps",
        "falls from time to time; many more than `prompts_per_step`",
    ),
    Metric(
        "pivots/uninformative_share",
        "share",
        "turns whose rewards were all equal when they were tried again",
        "rises as the policy learns",
    ),
)

SECTIONS: dict[str, tuple[Metric, ...]] = {
    "The step": _STEP,
    "Data": _DATA,
    "Demonstrations": _DEMONSTRATIONS,
    "Rollouts": _ROLLOUT,
    "Episodes": _EPISODES,
    "Scoring": _SCORING,
    "Pivots": _PIVOTS,
    "Reward": _REWARD,
    "What carries signal": _SIGNAL,
    "Hybrid": _HYBRID,
    "Selection": _SELECTION,
    "ACE": _ACE,
    "Credit": _CREDIT,
    "Preferences": _PREFERENCE,
    "Distillation": _DISTILLATION,
    "Policy": _POLICY,
    "Sampler against learner": _MISMATCH,
    "Critic": _CRITIC,
    "One-token rollouts": _ONE_TOKEN,
    "Gradient": _GRADIENT,
    "Learner": _LEARNER,
    "Weight transfer": _WEIGHTS,
    "Evaluation": _EVALUATION,
    "Time": _TIME,
}

METRICS: tuple[Metric, ...] = tuple(metric for section in SECTIONS.values() for metric in section)


@cache
def describe(name: str) -> Metric:
    """The table's row for a metric; an exact name goes before a family.

    Raises:
        KeyError: the table has no such metric.
    """
    for metric in METRICS:
        if metric.name == name:
            return metric
    for metric in METRICS:
        if "*" in metric.name and fnmatch.fnmatchcase(name, metric.name):
            return metric
    raise KeyError(f"no metric {name!r} in rlpost/monitor/catalogue.py")


def undocumented(names: Iterable[str]) -> set[str]:
    """Those of the names that the table does not have."""
    missing = set()
    for name in names:
        try:
            describe(name)
        except KeyError:
            missing.add(name)
    return missing
