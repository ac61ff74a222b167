"""The Celery worker. Imports nothing here, so that the engine can be used without Celery."""
