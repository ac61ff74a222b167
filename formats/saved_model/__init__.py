"""TensorFlow's SavedModels, checked before a library sees them."""

from formats.saved_model.model import CheckedSavedModel, inspect_saved_model, open_saved_model

__all__ = ["CheckedSavedModel", "inspect_saved_model", "open_saved_model"]
