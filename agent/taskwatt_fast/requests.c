/* Requests of web servers: accounts that learn their route. With exchanges.c and routes.c the twin of what
 * taskwatt_web's request.py, asgi.py and starlette_routes.py do in Python; they say what is meant, and fall back on
 * their own code where this part is not.
 *
 * A server's caches are cold for us: each function of Python's that is called at a request costs it about half a
 * microsecond, which is why there are so few left. */
#include "requests.h"

Words word;
PyObject *names_by_method;
static PyObject *other_names; /* as the values of `names_by_method` */

/* Not derived in Python: an instance of such a class is one more object for the garbage collector. */
static PyTypeObject RequestType;
static PyObject *tell; /* called before the first request of a process */
static bool told;

Account *
request_here(void)
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

Account *
open_request(PyObject *method, PyObject *source)
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

bool
match_path(Account *request, PyObject *path)
{
    if (request->closed || request->names == NULL) {
        return true;
    }
    PyObject *name = PyObject_GetItem(request->names, path);
    bool done = name != NULL && rename_account(request, name);
    Py_XDECREF(name);
    return done;
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
    return is_ready() ? (PyObject *)open_request(arguments[0], number == 2 ? arguments[1] : Py_None) : NULL;
}

static PyObject *
current_request(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    if (!is_ready()) {
        return NULL;
    }
    PyObject *request = (PyObject *)request_here();
    return request == NULL ? Py_NewRef(Py_None) : request;
}

static PyObject *
match_request(PyObject *Py_UNUSED(module), PyObject *path)
{
    if (!is_ready()) {
        return NULL;
    }
    Account *request = PyUnicode_Check(path) ? request_here() : NULL;
    bool done = request == NULL || match_path(request, path);
    Py_XDECREF((PyObject *)request);
    return done ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
request_matched(Account *request, PyObject *path)
{
    return match_path(request, path) ? Py_NewRef(Py_None) : NULL;
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
    {NULL, NULL, 0, NULL},
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
    if (PyType_Ready(&RequestType) < 0 || PyModule_AddFunctions(module, functions) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "Request", (PyObject *)&RequestType);
}
