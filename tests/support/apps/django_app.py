"""Django in one file: `application` is WSGI, `asgi` is ASGI."""

from __future__ import annotations

import os
from collections.abc import Iterator

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import include, path, re_path

from tests.support.apps import told, work

if not settings.configured:
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="none", DEBUG=False)
    django.setup()


def rows(_: HttpRequest) -> HttpResponse:
    return JsonResponse(told())


def sync_item(_: HttpRequest, item_id: int) -> HttpResponse:
    work("GET /shop/items/<int:item_id>/", item_id)
    return HttpResponse(str(item_id))


async def async_item(_: HttpRequest, item_id: int) -> HttpResponse:
    work("GET /shop/async/<int:item_id>/", item_id)
    return HttpResponse(str(item_id))


def stream(_: HttpRequest, number: int) -> StreamingHttpResponse:
    def pieces() -> Iterator[bytes]:
        for _ in range(3):
            work("GET /stream/<int:number>", number / 3)
            yield b"piece"

    return StreamingHttpResponse(pieces())


def raises(_: HttpRequest) -> HttpResponse:
    raise ValueError("as it was")


def unavailable(_: HttpRequest, year: str = "") -> HttpResponse:
    return HttpResponse(status=503)


shop = [path("items/<int:item_id>/", sync_item), path("async/<int:item_id>/", async_item)]

urlpatterns = [
    path("rows", rows),
    path("shop/", include(shop)),
    path("stream/<int:number>", stream),
    path("raises", raises),
    path("unavailable", unavailable),
    re_path(r"^archive/(?P<year>[0-9]{4})/$", unavailable),
]

application = get_wsgi_application()
asgi = get_asgi_application()

if __name__ == "__main__":
    import sys
    from wsgiref.simple_server import make_server

    os.environ.setdefault("TASKWATT_PROCESS_CLASS", "web")
    make_server("127.0.0.1", int(sys.argv[1]), application).serve_forever()
