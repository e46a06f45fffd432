"""Django's development server, threaded as `runserver` has it."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import django
import django.conf
import django.core.servers.basehttp as basehttp
import django.core.wsgi
import django.http
import django.urls
from serving import operations_on


def slow(request: Any, text: str) -> Any:
    time.sleep(0.2)
    return django.http.HttpResponse(text)


urlpatterns = [django.urls.path("slow/<text>", slow)]


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    django.conf.settings.configure(
        ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="secret", DEBUG=False, LOGGING_CONFIG=None
    )
    django.setup()
    logging.getLogger("django.server").setLevel(logging.ERROR)
    server = type("Server", (basehttp.ThreadedWSGIServer,), {"request_queue_size": 100})(
        ("127.0.0.1", 0), basehttp.WSGIRequestHandler
    )
    server.set_app(django.core.wsgi.get_wsgi_application())
    with operations_on(server) as operation:
        yield operation
