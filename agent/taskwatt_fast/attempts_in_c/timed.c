/* An encoder or decoder whose CPU is counted as serialization: as taskwatt.meter.timed, but without a frame of its own,
 * neither to run nor in a traceback. */
#include "attempts.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *function; /* owned, as all here */
    PyObject *attributes; /* what functools.update_wrapper sets */
    PyObject *announce; /* called before an input that is not small; NULL: every input is measured */
    PyObject *weak;
    Py_ssize_t small, subject; /* below this length the argument at this place is not worth two clock readings */
} Timed;

static _Thread_local bool inside; /* an encoder that another one calls is counted with it */

static bool
is_small(Timed *self, PyObject *const *arguments, Py_ssize_t count)
{
    if (count <= self->subject) {
        return false;
    }
    PyObject *subject = arguments[self->subject];
    if (PyUnicode_Check(subject)) {
        return PyUnicode_GET_LENGTH(subject) < self->small;
    }
    Py_ssize_t length = PyObject_Length(subject);
    if (length < 0) {
        PyErr_Clear(); /* the decoder will say what it thinks of it */
    }
    return length < self->small;
}

static bool
book(double started, double collected)
{
    double spent = thread_clock() - started, serialization, collected_now;
    if (!read_meter(&serialization, &collected_now, NULL)) {
        return false;
    }
    spent -= collected_now - collected;
    return spent <= 0.0 || put_number(parts.meter, Meter_serialization, serialization + spent);
}

static PyObject *
measured(Timed *self, PyObject *const *arguments, size_t count, PyObject *names)
{
    double serialization, collected;
    if (!read_meter(&serialization, &collected, NULL)) {
        return NULL;
    }
    inside = true;
    double started = thread_clock();
    PyObject *result = PyObject_Vectorcall(self->function, arguments, count, names);
    inside = false;
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *error = PyErr_GetRaisedException();
#else
    PyObject *error, *value, *traceback;
    PyErr_Fetch(&error, &value, &traceback);
#endif
    if (!book(started, collected)) {
        PyErr_Clear();
    }
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(error);
#else
    PyErr_Restore(error, value, traceback);
#endif
    return result;
}

static PyObject *
call(PyObject *object, PyObject *const *arguments, size_t count, PyObject *names)
{
    Timed *self = (Timed *)object;
    if (self->announce != NULL) {
        if (is_small(self, arguments, PyVectorcall_NARGS(count))) {
            return PyObject_Vectorcall(self->function, arguments, count, names);
        }
        PyObject *done = PyObject_CallNoArgs(self->announce);
        if (done == NULL) {
            return NULL;
        }
        Py_DECREF(done);
    }
    if (inside) {
        return PyObject_Vectorcall(self->function, arguments, count, names);
    }
    return measured(self, arguments, count, names);
}

static PyObject *
make(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    static char *keywords[] = {"function", "small", "subject", "announce", NULL};
    PyObject *function, *announce = NULL;
    Py_ssize_t small = 0, subject = 0;
    if (!PyArg_ParseTupleAndKeywords(arguments, names, "O|nnO:Timed", keywords, &function, &small, &subject, &announce)) {
        return NULL;
    }
    if (parts.meter == NULL || !PyCallable_Check(function) || subject < 0) {
        PyErr_SetString(PyExc_TypeError, "a function to measure, after `prepare`");
        return NULL;
    }
    Timed *self = (Timed *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->call = call;
        self->function = Py_NewRef(function);
        self->announce = announce == Py_None ? NULL : Py_XNewRef(announce);
        self->small = small;
        self->subject = subject;
    }
    return (PyObject *)self;
}

static int
visit_all(Timed *self, visitproc visit, void *arg)
{
    Py_VISIT(self->function);
    Py_VISIT(self->attributes);
    Py_VISIT(self->announce);
    return 0;
}

static int
let_go(Timed *self)
{
    Py_CLEAR(self->function);
    Py_CLEAR(self->attributes);
    Py_CLEAR(self->announce);
    return 0;
}

static void
destroy(Timed *self)
{
    PyObject_GC_UnTrack(self);
    if (self->weak != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    let_go(self);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *
bind(PyObject *self, PyObject *object, PyObject *Py_UNUSED(type))
{
    return object == NULL || object == Py_None ? Py_NewRef(self) : PyMethod_New(self, object);
}

static PyObject *
represent(Timed *self)
{
    return PyObject_Repr(self->function);
}

static PyGetSetDef properties[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject TimedType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "taskwatt_fast._attempts.Timed",
    .tp_basicsize = sizeof(Timed),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .tp_new = make,
    .tp_dealloc = (destructor)destroy,
    .tp_traverse = (traverseproc)visit_all,
    .tp_clear = (inquiry)let_go,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Timed, call),
    .tp_dictoffset = offsetof(Timed, attributes),
    .tp_weaklistoffset = offsetof(Timed, weak),
    .tp_descr_get = bind,
    .tp_getset = properties,
    .tp_getattro = PyObject_GenericGetAttr,
    .tp_setattro = PyObject_GenericSetAttr,
    .tp_repr = (reprfunc)represent,
};
