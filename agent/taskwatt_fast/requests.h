/* Requests: what the parts that follow one share. */
#ifndef TASKWATT_REQUESTS_H
#define TASKWATT_REQUESTS_H

#include "carrier.h"

#pragma GCC visibility push(hidden) /* see carrier.h */

/* Interned: keys and values of ASGI's scopes and messages, attributes of routes. */
typedef struct {
    PyObject *type, *method, *headers, *status, *more_body, *path, *unrouted, *websocket, *fastapi, *effective, *original;
    PyObject *http, *http_start, *http_body, *websocket_start, *websocket_body, *websocket_method, *empty;
} Words;

/* requests.c */
extern Words word;
extern PyObject *names_by_method; /* dicts of names by route, whose `unrouted` is used until then; NULL: not set up */
Account *request_here(void); /* this context's innermost one, if open; new reference or NULL, without an exception */
Account *open_request(PyObject *method, PyObject *source);
bool match_path(Account *request, PyObject *path); /* a router found this template for it */

static inline bool
is_ready(void)
{
    if (names_by_method == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "no requests are set up");
    }
    return names_by_method != NULL;
}

static inline bool
is_text(PyObject *object, PyObject *text)
{
    return object == text || (object != NULL && PyUnicode_Check(object) && PyUnicode_Compare(object, text) == 0);
}

/* Borrowed or NULL, without an exception. */
static inline PyObject *
item(PyObject *mapping, PyObject *key)
{
    PyObject *value = PyDict_GetItemWithError(mapping, key);
    if (value == NULL && PyErr_Occurred()) {
        PyErr_Clear();
    }
    return value;
}

/* What a request's scope is known by: middleware may hand on a copy, which keeps the list of headers. Borrowed. */
static inline PyObject *
identity(PyObject *scope)
{
    PyObject *headers = item(scope, word.headers);
    return headers == NULL || headers == Py_None ? scope : headers;
}

#pragma GCC visibility pop

#endif
