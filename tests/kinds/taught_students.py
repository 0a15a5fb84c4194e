"""Studies of students of one teacher whose logits are kept, and what lies on the disk of them."""

from safetensors.torch import load_file
from training_processes import start, train

from workbench.kinds.logits.kept_logits import IDS, LOG_Q
from workbench.tracking import spool

TEACHER = ["model@then.distill.teacher.model=m0_06", "then.distill.teacher.model.num_layers=1"]
DISTILL = ["tokens=2560", "then=distill", *TEACHER, "then.distill.teacher.tokens=5120"]
KEPT = [*DISTILL, "then.distill.teacher.top_k=5"]


def of_kind(facts, kind):
    return [node for node in facts.plan.nodes.values() if node.stage.kind == kind]


def finish(facts, size=1):
    for kind in ("logits", "distill"):
        for node in of_kind(facts, kind):
            ended = start(size, train, root=facts.layout.root, stage=node.id)
            assert [each.text for each in ended] == [""] * size, ended[0].text
            assert [each.exit_code for each in ended] == [0] * size
    return facts


def files(facts):
    """Bytes of every kept file, by checkpoint."""
    [node] = of_kind(facts, "logits")
    folders = facts.layout.stage(node.id).list_checkpoints()
    return {(folder.name, name): (folder / name).read_bytes() for folder in folders for name in (IDS, LOG_Q)}


def rows(facts):
    read = [r for node in of_kind(facts, "distill") for r in spool.read_rows(facts.layout.stage(node.id).path)]
    return [{key: value for key, value in row.items() if key not in spool.WALL_CLOCK} for row in read]


def last_weights(facts):
    [*_, last] = of_kind(facts, "distill")
    return load_file(facts.layout.stage(last.id).list_checkpoints()[-1] / "model.safetensors")
