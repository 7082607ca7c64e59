/* How a request learns its route: from a router's method that hands it on. */
#include "requests.h"

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
    Account *request = PyDict_Check(scope) ? request_here() : NULL;
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
            done = match_path(request, path);
        }
        Py_XDECREF(path);
    }
    Py_XDECREF((PyObject *)request);
    return done ? Py_NewRef(Py_None) : NULL;
}

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

static PyTypeObject HandingType = {
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

static PyMethodDef functions[] = {
    {"note_route", (PyCFunction)(void (*)(void))note_route, METH_FASTCALL, "(route, scope) that a router hands on."},
    {NULL, NULL, 0, NULL},
};

int
add_routes(PyObject *module)
{
    if (PyType_Ready(&HandingType) < 0 || PyModule_AddFunctions(module, functions) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "Handing", (PyObject *)&HandingType);
}
