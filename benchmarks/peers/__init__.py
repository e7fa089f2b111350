"""The same models in other libraries, measured beside ours; each needs that library (`pip install '.[peers]'`)."""
