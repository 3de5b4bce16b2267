"""A run as a W3C PROV document: artifacts are entities, executions are activities, what executed them are agents.

An entity is named by its md5. Where several executions made the same bytes, each made an entity of its own, which is a
specialization of the one that the md5 names: in PROV an entity is generated once.
"""

import hashlib
import json
from collections import Counter
from typing import Any

from prov.model import ProvActivity, ProvDocument, ProvEntity

from components.lineage.record import Artifact, Record
from pipelines.lineage.export.names import HOME, input_places, made_by, place
from pipelines.lineage.graph import Graph

PREFIXES = {
    "mcm": f"{HOME}:prov:",
    "md5": f"{HOME}:md5:",
    "execution": f"{HOME}:execution:",
    "component": f"{HOME}:component:",
    "parameter": f"{HOME}:parameter:",
    "metric": f"{HOME}:metric:",
    "library": f"{HOME}:library:",
    "swh": "swh:1:rev:",
}


def document(graph: Graph) -> ProvDocument:
    """The document of a run."""
    return _Writer(graph).write()


class _Writer:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.document = ProvDocument()
        for prefix, uri in PREFIXES.items():
            self.document.add_namespace(prefix, uri)
        made = [(key, md5) for key, node in graph.nodes.items() for md5 in {out.md5 for out in made_by(node.record)}]
        self.makers = Counter(md5 for _, md5 in made)
        self.entities: dict[tuple[str | None, str], ProvEntity] = {}

    def write(self) -> ProvDocument:
        for key, node in self.graph.nodes.items():
            activity = self._activity(node.record)
            self._agent(activity, node.record)
            used = [self._use(activity, *read) for read in input_places(self.graph, key)]
            for artifact in made_by(node.record):
                entity = self._entity(key, artifact, place(key, artifact))
                self.document.wasGeneratedBy(
                    entity, activity, _time(node.record.ended), None, {"prov:role": artifact.name}
                )
                for source in used:
                    self.document.wasDerivedFrom(entity, source, activity)
        return self.document

    def _activity(self, record: Record) -> ProvActivity:
        facts: dict[str, Any] = {
            "prov:label": record.name,
            "mcm:stage": record.stage,
            "mcm:task": record.task or None,
            "mcm:run": record.run.id,
            "mcm:startedBy": record.run.by,
            "mcm:experiment": record.run.experiment,
            "mcm:status": record.status,
            "mcm:cachedFrom": record.cached_from.record if record.cached_from else None,
            "mcm:deviceSeconds": record.cost.device_seconds if record.cost else None,
            "mcm:processor": record.hardware.processor if record.hardware else None,
            "mcm:accelerators": ", ".join(record.hardware.accelerators) or None if record.hardware else None,
        }
        facts |= {f"parameter:{name}": json.dumps(value) for name, value in record.parameters.items()}
        facts |= {f"metric:{name}": value for name, value in record.metrics.items()}
        facts |= {f"library:{name}": version for name, version in (record.libraries or {}).items()}
        identity, times = f"execution:{record.id}", (_time(record.started), _time(record.ended))
        return self.document.activity(identity, *times, _known(facts))

    def _agent(self, activity: ProvActivity, record: Record) -> None:
        """The component at its version, in its image, of its commit; the commit is the plan that it followed."""
        commit = record.code.commit if record.code else None
        facts = {
            "prov:type": self.document.valid_qualified_name("prov:SoftwareAgent"),
            "prov:label": record.stage,
            "mcm:version": record.component,
            "mcm:image": record.image or None,
            "mcm:commit": commit,
            "mcm:dirty": record.code.dirty if record.code else None,
        }
        build = hashlib.sha256(json.dumps([record.component, record.image, commit, facts["mcm:dirty"]]).encode())
        identity = f"component:{record.stage}-{build.hexdigest()[:12]}"
        agent = self._once(identity) or self.document.agent(identity, _known(facts))
        plan = None
        if commit:
            kind = self.document.valid_qualified_name("prov:Plan")
            plan = self._once(f"swh:{commit}") or self.document.entity(f"swh:{commit}", {"prov:type": kind})
        self.document.wasAssociatedWith(activity, agent, plan)

    def _use(self, activity: ProvActivity, artifact: Artifact, name: str, maker: str | None) -> ProvEntity:
        entity = self._entity(maker, artifact, name)
        self.document.used(activity, entity, None, None, {"prov:role": artifact.name})
        return entity

    def _entity(self, maker: str | None, artifact: Artifact, name: str) -> ProvEntity:
        """The artifact as `maker` made it; None where no known execution did."""
        shared = self.makers[artifact.md5] > 1
        key = (maker if shared else None, artifact.md5)
        if key in self.entities:
            return self.entities[key]
        facts = {
            "prov:label": name,
            "mcm:bytes": artifact.size,
            "mcm:files": artifact.files,
            "mcm:measured": artifact.measured or None,
        }
        if not shared or maker is None:
            entity = self.document.entity(f"md5:{artifact.md5}", _known(facts))
        else:
            identity = f"md5:{artifact.md5}-{self.graph.nodes[maker].record.id[:12]}"
            content = self._entity(None, artifact, name)
            entity = self.document.entity(identity, _known(facts))
            self.document.specializationOf(entity, content)
        self.entities[key] = entity
        return entity

    def _once(self, identity: str) -> Any:
        found = self.document.get_record(identity)
        return found[0] if found else None


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _time(time: Any) -> str | None:
    return time.isoformat() if time else None
