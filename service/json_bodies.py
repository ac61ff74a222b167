"""JSON that is sent: one document for every reader, or none."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from formats import strict_json
from secateur.problems import FieldProblem
from service.errors import RequestInvalid


class StrictJsonRoute(APIRoute):
    """A route that refuses JSON which readers disagree about, before FastAPI reads it.

    Python takes the last of two equal keys, `NaN`, texts that no encoding has, other encodings than
    UTF-8, and fails in its own ways on numbers and depths without end.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            if is_json(request.headers.get("content-type", "")):
                check_json(await request.body())
            return await handle(request)

        return handle_strictly


def is_json(media_type: str) -> bool:
    essence = media_type.partition(";")[0].strip().lower()
    return essence == "application/json" or essence.endswith("+json")


def check_json(body: bytes) -> None:
    """Refuse what is no plain JSON. No body at all is FastAPI's to refuse.

    Raises:
        RequestInvalid: With what is wrong, and where.
    """
    if not body:
        return
    try:
        document = strict_json.loads(body)
        # Half of a pair of surrogates can be written with \u, and is no character.
        json.dumps(document, ensure_ascii=False).encode()
    except strict_json.JsonError as error:
        raise RequestInvalid([_problem(str(error))]) from error
    except UnicodeEncodeError as error:
        raise RequestInvalid([_problem("a text has half of a surrogate pair")]) from error


def _problem(detail: str) -> FieldProblem:
    return FieldProblem(pointer="", code="json_invalid", detail=detail)
