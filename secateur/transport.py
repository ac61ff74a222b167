"""Requests that are tried again where that is safe, and answers that are checked."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from secateur.errors import ConnectionFailed, ProblemError, SecateurError, UnexpectedAnswer
from secateur.problems import Problem

_EXCERPT_CHARACTERS = 100

# Says nothing of the request: something on the way was not able to, or is busy.
_TEMPORARY = frozenset({429, 502, 503, 504})

Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True)
class Retries:
    """How often a request is tried again, and after which waits in seconds."""

    count: int = 5
    first_wait_s: float = 0.2
    longest_wait_s: float = 8.0

    def wait_s(self, number: int) -> float:
        """The wait before retry `number`, from 0: doubled each time, and never in step."""
        longest = min(self.longest_wait_s, self.first_wait_s * 2.0**number)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret.


@dataclass(frozen=True)
class Request:
    """A request that can be sent more than once."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Callable[[], bytes | Iterator[bytes]]
    """Makes the body anew for each try."""
    is_repeatable: bool
    """Whether doing it twice is as good as doing it once."""
    wait_s: float = 0.0
    """How long the service may take, beyond what it usually takes."""


class Transport:
    """Connections to one service."""

    def __init__(self, url: str, api_key: str, *, retries: Retries, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self._retries = retries
        self._timeout_s = timeout_s
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=timeout_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def send(self, request: Request) -> httpx.Response:
        """The answer, which is neither a problem nor somebody else's.

        Raises:
            ConnectionFailed: There is none.
            ProblemError: The service said no.
            UnexpectedAnswer: It is not the service's.
        """
        with self.stream(request) as response:
            self._read(response)
            return response

    @contextmanager
    def stream(self, request: Request) -> Iterator[httpx.Response]:
        """Like `send`, with a body that is still to be read."""
        response, tries = self._tried(request)
        # Deleted by the first try, whose answer was lost.
        is_gone = request.method == "DELETE" and tries > 1 and response.status_code == 404
        try:
            if response.is_success or is_gone or response.status_code == 304:
                yield response
                return
            self._read(response)
            raise self._refusal(response)
        finally:
            response.close()

    def read_as(self, kind: type[Answer], response: httpx.Response) -> Answer:
        """An answer's body, as what it should be.

        Raises:
            UnexpectedAnswer: It is something else.
        """
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise self._unexpected(response) from error

    def _tried(self, request: Request) -> tuple[httpx.Response, int]:
        """The answer, and how many tries it took."""
        retries = self._retries.count if request.is_repeatable else 0
        for number in range(retries):
            try:
                response = self._try(request)
            except httpx.TransportError:
                time.sleep(self._retries.wait_s(number))
                continue
            if response.status_code not in _TEMPORARY:
                return response, number + 1
            response.close()
            time.sleep(max(self._retries.wait_s(number), _retry_after_s(response)))
        try:
            return self._try(request), retries + 1
        except httpx.TransportError as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise ConnectionFailed(self.url, reason) from error

    def _try(self, request: Request) -> httpx.Response:
        built = self._http.build_request(
            request.method,
            request.path,
            params=dict(request.query),
            headers=dict(request.headers),
            content=request.body(),
            timeout=httpx.Timeout(self._timeout_s, read=self._timeout_s + request.wait_s),
        )
        return self._http.send(built, stream=True)

    def _read(self, response: httpx.Response) -> None:
        try:
            response.read()
        except httpx.TransportError as error:
            raise ConnectionFailed(self.url, f"{type(error).__name__} in an answer") from error

    def _refusal(self, response: httpx.Response) -> SecateurError:
        try:
            return ProblemError(Problem.model_validate_json(response.content))
        except ValidationError:
            return self._unexpected(response)

    def _unexpected(self, response: httpx.Response) -> UnexpectedAnswer:
        excerpt = response.text[:_EXCERPT_CHARACTERS]
        url = str(response.request.url.copy_with(query=None))
        return UnexpectedAnswer(url, status=response.status_code, excerpt=excerpt)


def _retry_after_s(response: httpx.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0
