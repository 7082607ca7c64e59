/* Requests of web servers: accounts that learn their route. Twin of what taskwatt_web's request.py, asgi.py and
 * starlette_routes.py do in Python; they say what is meant, and fall back on their own code where this part is not.
 *
 * A server's caches are cold for us: each function of Python's that is called at a request costs it about half a
 * microsecond, which is why there are so few left. */
#include "carrier.h"

#include <structmember.h>

/* Not derived in Python: an instance of such a class is one more object for the garbage collector. */
static PyTypeObject RequestType;
static PyObject *tell; /* called before the first request of a process */
static bool told;
static PyObject *names_by_method, *other_names; /* dicts: names of rows by route, whose `unrouted` is used until then */

static struct {
    PyObject *type, *method, *headers, *status, *more_body, *path, *unrouted, *websocket, *fastapi, *effective, *original;
    PyObject *http, *http_start, *http_body, *websocket_start, *websocket_body, *websocket_method, *empty;
} word;

static bool
is_text(PyObject *object, PyObject *text)
{
    return object == text || (object != NULL && PyUnicode_Check(object) && PyUnicode_Compare(object, text) == 0);
}

/* Borrowed or NULL, without an exception. */
static PyObject *
item(PyObject *mapping, PyObject *key)
{
    PyObject *value = PyDict_GetItemWithError(mapping, key);
    if (value == NULL && PyErr_Occurred()) {
        PyErr_Clear();
    }
    return value;
}

/* What a request's scope is known by: middleware may hand on a copy, which keeps the list of headers. Borrowed. */
static PyObject *
identity(PyObject *scope)
{
    PyObject *headers = item(scope, word.headers);
    return headers == NULL || headers == Py_None ? scope : headers;
}

/* The innermost request of this context that is open. New reference or NULL, without an exception. */
static Account *
current(void)
{
    PyObject *account = account_here();
    Account *one = account != NULL && PyObject_TypeCheck(account, &AccountType) ? (Account *)account : NULL;
    while (one != NULL && !PyObject_TypeCheck((PyObject *)one, &RequestType)) {
        one = one->around;
    }
    Account *request = one == NULL || one->closed ? NULL : (Account *)Py_NewRef((PyObject *)one);
    Py_XDECREF(account);
    return request;
}

static Account *
begun(PyObject *method, PyObject *source)
{
    if (UNLIKELY(!told)) {
        told = true;
        PyObject *answer = PyObject_CallNoArgs(tell);
        if (answer == NULL) {
            return NULL;
        }
        Py_DECREF(answer);
    }
    PyObject *names = PyDict_GetItemWithError(names_by_method, method);
    if (names == NULL) {
        if (PyErr_Occurred()) {
            return NULL;
        }
        names = other_names;
    }
    PyObject *name = PyObject_GetAttr(names, word.unrouted);
    Account *request = name == NULL ? NULL : begin_account(&RequestType, name);
    Py_XDECREF(name);
    if (request != NULL) {
        request->names = Py_NewRef(names);
        request->prefix = Py_NewRef(word.empty);
        request->source = Py_NewRef(source);
    }
    return request;
}

static bool
matched(Account *request, PyObject *path)
{
    if (request->closed || request->names == NULL) {
        return true;
    }
    PyObject *name = PyObject_GetItem(request->names, path);
    bool done = name != NULL && rename_account(request, name);
    Py_XDECREF(name);
    return done;
}

static bool
is_ready(void)
{
    if (names_by_method == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "no requests are set up");
    }
    return names_by_method != NULL;
}

/* --- functions ----------------------------------------------------------------------------------------------------- */

static PyObject *
set_up_requests(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *names, *others, *first;
    if (!PyArg_ParseTuple(arguments, "O!OO:set_up_requests", &PyDict_Type, &names, &others, &first)) {
        return NULL;
    }
    Py_XSETREF(names_by_method, Py_NewRef(names));
    Py_XSETREF(other_names, Py_NewRef(others));
    Py_XSETREF(tell, Py_NewRef(first));
    Py_RETURN_NONE;
}

static PyObject *
forget_requests(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    told = false;
    Py_RETURN_NONE;
}

static PyObject *
begin_request(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t number)
{
    if (number < 1 || number > 2 || !PyUnicode_Check(arguments[0])) {
        PyErr_SetString(PyExc_TypeError, "begin_request(method[, source])");
        return NULL;
    }
    return is_ready() ? (PyObject *)begun(arguments[0], number == 2 ? arguments[1] : Py_None) : NULL;
}

static PyObject *
current_request(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    if (!is_ready()) {
        return NULL;
    }
    PyObject *request = (PyObject *)current();
    return request == NULL ? Py_NewRef(Py_None) : request;
}

static PyObject *
match_request(PyObject *Py_UNUSED(module), PyObject *path)
{
    if (!is_ready()) {
        return NULL;
    }
    Account *request = PyUnicode_Check(path) ? current() : NULL;
    bool done = request == NULL || matched(request, path);
    Py_XDECREF((PyObject *)request);
    return done ? Py_NewRef(Py_None) : NULL;
}

/* FastAPI with nested routers: the path of the route as it was included. New reference or NULL, without an exception. */
static PyObject *
effective_path(PyObject *route, PyObject *scope)
{
    PyObject *own = item(scope, word.fastapi);
    PyObject *context = own != NULL && PyDict_Check(own) ? item(own, word.effective) : NULL;
    if (LIKELY(context == NULL || context == Py_None)) {
        return NULL;
    }
    PyObject *original = PyObject_GetAttr(context, word.original);
    PyObject *path = original == route ? PyObject_GetAttr(context, word.path) : NULL;
    Py_XDECREF(original);
    PyErr_Clear();
    return path;
}

static PyObject *
note_route(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t number)
{
    if (number != 2) {
        PyErr_SetString(PyExc_TypeError, "note_route(route, scope)");
        return NULL;
    }
    if (!is_ready()) {
        return NULL;
    }
    PyObject *route = arguments[0], *scope = arguments[1];
    Account *request = PyDict_Check(scope) ? current() : NULL;
    bool done = true;
    if (request != NULL && request->route != (uintptr_t)route && request->source == identity(scope)) {
        request->route = (uintptr_t)route; /* FastAPI's `handle` calls Starlette's */
        PyObject *path = effective_path(route, scope);
        if (path == NULL || !PyUnicode_Check(path) || PyUnicode_GET_LENGTH(path) == 0) {
            Py_XSETREF(path, PyObject_GetAttr(route, word.path));
            PyErr_Clear();
        }
        if (path != NULL && PyUnicode_Check(path) && request->prefix != NULL && PyUnicode_Check(request->prefix)
            && PyUnicode_GET_LENGTH(request->prefix) > 0) {
            Py_SETREF(path, PyUnicode_Concat(request->prefix, path));
            done = path != NULL;
        }
        if (path != NULL && PyUnicode_Check(path)) {
            done = matched(request, path);
        }
        Py_XDECREF(path);
    }
    Py_XDECREF((PyObject *)request);
    return done ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
request_matched(Account *request, PyObject *path)
{
    return matched(request, path) ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef request_methods[] = {
    {"matched", (PyCFunction)request_matched, METH_O, "A router found this template for it; the last one counts."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject RequestType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "taskwatt_fast.Request",
    .tp_doc = "An account whose name depends on its route.",
    .tp_basicsize = sizeof(Account),
    .tp_base = &AccountType,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_methods = request_methods,
};

static PyMethodDef functions[] = {
    {"set_up_requests", set_up_requests, METH_VARARGS, "({method: names by route}, those of other methods, called before the first request)"},
    {"forget_requests", forget_requests, METH_NOARGS, "The next request is the first one."},
    {"begin_request", (PyCFunction)(void (*)(void))begin_request, METH_FASTCALL, "(method[, source]) -> a request, open"},
    {"current_request", current_request, METH_NOARGS, "The request that is served in this context, or None."},
    {"match_request", match_request, METH_O, "A router found this template for it."},
    {"note_route", (PyCFunction)(void (*)(void))note_route, METH_FASTCALL, "(route, scope) that a router hands on."},
    {NULL, NULL, 0, NULL},
};

/* --- the messages between an ASGI server and its application -------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Account *request;
    PyObject *receive, *send; /* the server's */
    char told, gone;
} Exchange;

static PyObject *
exchange_enter(PyTypeObject *type, PyObject *const *arguments, Py_ssize_t number)
{
    if (number != 3) {
        PyErr_SetString(PyExc_TypeError, "enter(scope, receive, send)");
        return NULL;
    }
    if (!is_ready()) {
        return NULL;
    }
    if (!PyDict_Check(arguments[0])) {
        Py_RETURN_NONE;
    }
    PyObject *scope = arguments[0], *kind = item(scope, word.type), *method;
    if (LIKELY(is_text(kind, word.http))) {
        method = item(scope, word.method);
        if (method == NULL || !PyUnicode_Check(method)) {
            method = word.empty;
        }
    }
    else if (is_text(kind, word.websocket)) {
        method = word.websocket_method;
    }
    else {
        Py_RETURN_NONE;
    }
    PyObject *source = identity(scope);
    Account *around = current();
    bool mounted = around != NULL && around->source == source;
    Py_XDECREF((PyObject *)around);
    if (mounted) {
        Py_RETURN_NONE;
    }
    Exchange *exchange = (Exchange *)type->tp_alloc(type, 0);
    if (exchange == NULL) {
        return NULL;
    }
    exchange->receive = Py_NewRef(arguments[1]);
    exchange->send = Py_NewRef(arguments[2]);
    exchange->request = begun(method, source);
    if (exchange->request == NULL) {
        Py_CLEAR(exchange);
    }
    return (PyObject *)exchange;
}

static void
look_at_message(Exchange *exchange, PyObject *message)
{
    PyObject *kind = item(message, word.type);
    if (is_text(kind, word.http_start) || is_text(kind, word.websocket_start)) {
        PyObject *status = item(message, word.status);
        long code = status != NULL && PyLong_Check(status) ? PyLong_AsLong(status) : 0;
        if (code == -1) {
            PyErr_Clear();
        }
        exchange->request->status = code;
    }
    else if (is_text(kind, word.http_body) || is_text(kind, word.websocket_body)) {
        PyObject *more = item(message, word.more_body);
        exchange->told |= more == NULL || more == Py_False;
    }
}

static PyObject *
exchange_send(Exchange *exchange, PyObject *message)
{
    if (LIKELY(PyDict_Check(message))) {
        look_at_message(exchange, message);
    }
    return PyObject_CallOneArg(exchange->send, message);
}

static int
exchange_traverse(Exchange *exchange, visitproc visit, void *arg)
{
    Py_VISIT(exchange->receive);
    Py_VISIT(exchange->send);
    return 0;
}

static int
exchange_clear(Exchange *exchange)
{
    Py_XSETREF(exchange->receive, Py_NewRef(Py_None));
    Py_XSETREF(exchange->send, Py_NewRef(Py_None));
    return 0;
}

static void
exchange_dealloc(Exchange *exchange)
{
    PyObject_GC_UnTrack(exchange);
    Py_CLEAR(exchange->receive);
    Py_CLEAR(exchange->send);
    Py_XDECREF((PyObject *)exchange->request);
    Py_TYPE(exchange)->tp_free((PyObject *)exchange);
}

static PyMethodDef exchange_methods[] = {
    {"enter", (PyCFunction)(void (*)(void))exchange_enter, METH_FASTCALL | METH_CLASS,
     "(scope, receive, send) of a request that enters an application; None for what is no request of its own."},
    {"send", (PyCFunction)exchange_send, METH_O, "What it gives is the server's."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef exchange_members[] = {
    {"request", T_OBJECT, offsetof(Exchange, request), READONLY, NULL},
    {"server_receives", T_OBJECT, offsetof(Exchange, receive), READONLY, NULL},
    {"told", T_BOOL, offsetof(Exchange, told), 0, "Has the whole response been sent?"},
    {"gone", T_BOOL, offsetof(Exchange, gone), 0, "Did the client go before?"},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject ExchangeType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "taskwatt_fast.Exchange",
    .tp_doc = "The messages of one request between server and application.",
    .tp_basicsize = sizeof(Exchange),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)exchange_dealloc,
    .tp_traverse = (traverseproc)exchange_traverse,
    .tp_clear = (inquiry)exchange_clear,
    .tp_methods = exchange_methods,
    .tp_members = exchange_members,
};

/* --- a router's method that hands on -------------------------------------------------------------------------------- */

/* Stands in for `handle(self, scope, ...)` of a route's class, and calls it: what that gives is the framework's. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *original, *failed; /* the function; called with an exception of ours, after which nothing is noted */
    PyObject *attributes;
    bool off;
} Handing;

static PyObject *
call_handing(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *names)
{
    Handing *handing = (Handing *)self;
    if (LIKELY(PyVectorcall_NARGS(flags) >= 2 && !handing->off)) {
        PyObject *noted = note_route(NULL, arguments, 2);
        if (UNLIKELY(noted == NULL)) {
            handing->off = true;
            PyObject *exception = take_exception();
            PyObject *answer = PyObject_CallOneArg(handing->failed, exception);
            if (answer == NULL) {
                PyErr_Clear();
            }
            Py_XDECREF(answer);
            Py_XDECREF(exception);
        }
        Py_XDECREF(noted);
    }
    return PyObject_Vectorcall(handing->original, arguments, flags, names);
}

static PyObject *
handing_new(PyTypeObject *type, PyObject *arguments, PyObject *Py_UNUSED(names))
{
    PyObject *original, *failed;
    if (!PyArg_ParseTuple(arguments, "OO:Handing", &original, &failed)) {
        return NULL;
    }
    Handing *handing = (Handing *)type->tp_alloc(type, 0);
    if (handing != NULL) {
        handing->call = call_handing;
        handing->original = Py_NewRef(original);
        handing->failed = Py_NewRef(failed);
    }
    return (PyObject *)handing;
}

static PyObject *
handing_get(PyObject *self, PyObject *instance, PyObject *Py_UNUSED(owner))
{
    return instance == NULL || instance == Py_None ? Py_NewRef(self) : PyMethod_New(self, instance);
}

static int
handing_traverse(Handing *handing, visitproc visit, void *arg)
{
    Py_VISIT(handing->original);
    Py_VISIT(handing->failed);
    Py_VISIT(handing->attributes);
    return 0;
}

static int
handing_clear(Handing *handing)
{
    Py_XSETREF(handing->original, Py_NewRef(Py_None));
    Py_XSETREF(handing->failed, Py_NewRef(Py_None));
    Py_CLEAR(handing->attributes);
    return 0;
}

static void
handing_dealloc(Handing *handing)
{
    PyObject_GC_UnTrack(handing);
    Py_CLEAR(handing->original);
    Py_CLEAR(handing->failed);
    Py_CLEAR(handing->attributes);
    Py_TYPE(handing)->tp_free((PyObject *)handing);
}

static PyGetSetDef handing_properties[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject HandingType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "taskwatt_fast.Handing",
    .tp_doc = "Handing(function, failed): notes for which route a request is handed on.",
    .tp_basicsize = sizeof(Handing),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .tp_new = handing_new,
    .tp_dealloc = (destructor)handing_dealloc,
    .tp_traverse = (traverseproc)handing_traverse,
    .tp_clear = (inquiry)handing_clear,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Handing, call),
    .tp_descr_get = handing_get,
    .tp_dictoffset = offsetof(Handing, attributes),
    .tp_getset = handing_properties,
};

int
add_requests(PyObject *module)
{
    const struct {
        PyObject **place;
        const char *text;
    } words[] = {
        {&word.type, "type"},
        {&word.method, "method"},
        {&word.headers, "headers"},
        {&word.status, "status"},
        {&word.more_body, "more_body"},
        {&word.path, "path"},
        {&word.unrouted, "unrouted"},
        {&word.websocket, "websocket"},
        {&word.websocket_method, "WEBSOCKET"},
        {&word.fastapi, "fastapi"},
        {&word.effective, "effective_route_context"},
        {&word.original, "original_route"},
        {&word.http, "http"},
        {&word.http_start, "http.response.start"},
        {&word.http_body, "http.response.body"},
        {&word.websocket_start, "websocket.http.response.start"},
        {&word.websocket_body, "websocket.http.response.body"},
        {&word.empty, ""},
    };
    for (size_t index = 0; index < sizeof(words) / sizeof(words[0]); index++) {
        if (*words[index].place == NULL && (*words[index].place = PyUnicode_InternFromString(words[index].text)) == NULL) {
            return -1;
        }
    }
    if (PyType_Ready(&RequestType) < 0 || PyType_Ready(&ExchangeType) < 0 || PyType_Ready(&HandingType) < 0 || PyModule_AddFunctions(module, functions) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "Request", (PyObject *)&RequestType) < 0
               || PyModule_AddObjectRef(module, "Exchange", (PyObject *)&ExchangeType) < 0
               || PyModule_AddObjectRef(module, "Handing", (PyObject *)&HandingType) < 0
        ? -1
        : 0;
}
