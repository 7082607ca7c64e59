/* The messages between an ASGI server and its application, which say how a request went. */
#include "requests.h"

#include <structmember.h>

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
    Account *around = request_here();
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
    exchange->request = open_request(method, source);
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

static PyTypeObject ExchangeType = {
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

int
add_exchanges(PyObject *module)
{
    if (PyType_Ready(&ExchangeType) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "Exchange", (PyObject *)&ExchangeType);
}
