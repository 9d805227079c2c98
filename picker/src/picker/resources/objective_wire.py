"""Wire types of InferenceObjective and InferenceModelRewrite, and their conversion.

In the v1 API they replace InferenceModel. Rules and defaults are those of their CRDs
(https://llm-d.ai/docs/api-reference/inferencemodelrewrite). The older group `inference.networking.x-k8s.io` has the
same two kinds.
"""

from typing import Annotated, Literal

from pydantic import Field

from picker.resources.inference import InferenceModelRewrite, InferenceObjective, RewriteRule, TargetModel
from picker.resources.names import POOL_GROUP_V1, PoolName
from picker.resources.pool_wire import MAX_WEIGHT
from picker.resources.wire import DnsName, Metadata, Object, Wire

MAX_LISTED = 256
"""Limit on the rules, matches or targets of one object. Judgement: etcd's 1.5 MiB has no room for more with long
names."""

ModelName = Annotated[str, Field(min_length=1, max_length=253)]


class PoolRefV1(Wire):
    """A pool in the referrer's namespace: a v1 pool, unlike an InferenceModel's, unless the group is another one."""

    group: Literal["inference.networking.k8s.io", "inference.networking.x-k8s.io"] = POOL_GROUP_V1
    kind: Literal["InferencePool"] = "InferencePool"
    name: DnsName

    def pool(self, metadata: Metadata) -> PoolName:
        return PoolName(self.group, metadata.namespace, self.name)


class InferenceObjectiveSpec(Wire):
    priority: int = Field(0, strict=True, ge=-(2**31), le=2**31 - 1)
    pool_ref: PoolRefV1


class InferenceObjectiveV1Alpha2(Object):
    kind: Literal["InferenceObjective"]
    spec: InferenceObjectiveSpec

    def objective(self) -> InferenceObjective:
        return InferenceObjective(self.name, self.spec.pool_ref.pool(self.metadata), self.spec.priority)


class ModelMatch(Wire):
    type: Literal["Exact"] = "Exact"
    value: str = Field(min_length=1, max_length=256, description="The model as clients call it")


class Match(Wire):
    model: ModelMatch


class RewriteTarget(Wire):
    model_rewrite: ModelName = Field(description="The model as the servers call it")
    weight: int = Field(1, strict=True, ge=1, le=MAX_WEIGHT)


class RewriteRuleWire(Wire):
    matches: tuple[Match, ...] = Field((), max_length=MAX_LISTED)
    targets: tuple[RewriteTarget, ...] = Field((), max_length=MAX_LISTED)


class InferenceModelRewriteSpec(Wire):
    pool_ref: PoolRefV1
    rules: tuple[RewriteRuleWire, ...] = Field(max_length=MAX_LISTED)


class InferenceModelRewriteV1Alpha2(Object):
    kind: Literal["InferenceModelRewrite"]
    spec: InferenceModelRewriteSpec

    def rewrite(self) -> InferenceModelRewrite:
        return InferenceModelRewrite(
            name=self.name,
            pool=self.spec.pool_ref.pool(self.metadata),
            rules=tuple(
                RewriteRule(
                    models=tuple(match.model.value for match in rule.matches),
                    targets=tuple(TargetModel(target.model_rewrite, target.weight) for target in rule.targets),
                )
                for rule in self.spec.rules
            ),
            created=self.metadata.creation_timestamp,
        )
