"""The fields of a small manifest of a set in the form of Charades-STA."""

TOY = {
    "name": "toy",
    "title": "Toy",
    "task": "grounding",
    "summary": "A toy.",
    "source": "nowhere",
    "citation": "none",
    "licence": "CC0",
    "redistributable": True,
    "version": "1",
    "where": "ask the authors.",
    "folder": "toy",
    "reader": "charades-sta",
}
