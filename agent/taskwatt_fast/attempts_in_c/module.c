/* taskwatt_fast._attempts: measures plain attempts of Celery tasks, and encoders. See attempts.h for how, and ../attempts.py for when. */
#include "attempts.h"

Parts parts;
Numbers numbers;
PyObject *no_arguments;

#define PART_NAME(name) #name,
static const char *const part_names[] = {PARTS(PART_NAME)};
#undef PART_NAME
_Static_assert(sizeof(Parts) == sizeof(part_names), "each has a name");

/* Borrowed into `found`; ValueError, with nothing changed, when one is not what it is known as. */
static bool
read_parts(PyObject *given, Parts *found)
{
    PyObject **part = (PyObject **)found;
    for (size_t at = 0; at < Py_ARRAY_LENGTH(part_names); at++) {
        if ((part[at] = PyDict_GetItemString(given, part_names[at])) == NULL) {
            PyErr_Format(PyExc_ValueError, "%s is missing", part_names[at]);
            return false;
        }
    }
    bool fit = PyDict_Check(found->trace) && PyDict_Check(found->propagate) && PyDict_Check(found->tracing)
        && PyDict_Check(found->modules) && PyDict_Check(found->active) && PyDict_Check(found->limbo)
        && PyUnicode_Check(found->span_key) && PyUnicode_Check(found->official) && PyTuple_Check(found->no_ids)
        && PyTuple_GET_SIZE(found->no_ids) == 2
        && (found->current_context == Py_None || PyContextVar_CheckExact(found->current_context))
        && PyType_Check(found->Context) && PyType_IsSubtype((PyTypeObject *)found->Context, &PyDict_Type)
        && PyType_Check(found->Meter) && PyObject_TypeCheck(found->meter, (PyTypeObject *)found->Meter);
    if (!fit) {
        PyErr_SetString(PyExc_ValueError, "a part is of another kind than it was");
    }
    return fit;
}

static void
keep_parts(const Parts *found)
{
    PyObject **part = (PyObject **)&parts, *const *value = (PyObject *const *)found;
    for (size_t at = 0; at < Py_ARRAY_LENGTH(part_names); at++) {
        Py_XSETREF(part[at], Py_NewRef(value[at]));
    }
}

/* layout.HOT_LAYOUT: head, record, attempt in flight, body, progress; the names of a record's fields. */
static const char our_fields[] =
    "<QI | "
    "<BBH 36s16s8s8s16s8s q d QQ IIHHI H dd dddddd Q BB I Q | "
    "<IQdd | "
    "<Qd | "
    "<QQddd | "
    "kind flags task task_id trace_id span_id parent_span_id link_trace_id link_span_id start_ns "
    "queue_wait attempt_no body_size retries depth nesting queue args_hash publisher duration "
    "retry_delay business serialization gc framework agent subprocesses max_rss outcome state "
    "spill_length spill_at";

static bool
is_our_layout(PyObject *layout, PyObject *described)
{
    static const long ours[] = {PROGRESS_AT, READER_AT, IN_FLIGHT_AT, BODY_AT, RING_AT, RING_SLOTS,
                                SLOT_SIZE, SEGMENT_SIZE, sizeof(Begun), sizeof(Ended), ATTEMPT, SAMPLED, REDELIVERED,
                                ID_SPILLED, NO_STRING, TASK_ID_SIZE, OWN};
    bool same = PyTuple_GET_SIZE(layout) == (Py_ssize_t)Py_ARRAY_LENGTH(ours)
        && PyUnicode_CompareWithASCIIString(described, our_fields) == 0;
    for (Py_ssize_t at = 0; same && at < PyTuple_GET_SIZE(layout); at++) {
        same = PyLong_AsLong(PyTuple_GET_ITEM(layout, at)) == ours[at];
    }
    if (!same && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "it was built for another layout of segments");
    }
    return same;
}

static PyObject *
prepare(PyObject *Py_UNUSED(module), PyObject *arguments, PyObject *names)
{
    static char *keywords[] = {"parts", "layout", "described", "provider_named", "waited_s", "threads_min_s", "subprocess_min_s",
                               "hook_every", "useful", "success", NULL};
    PyObject *given, *layout, *described;
    int provider_named;
    Numbers read;
    if (!PyArg_ParseTupleAndKeywords(arguments, names, "O!O!Updddlbb:prepare", keywords, &PyDict_Type, &given,
                                     &PyTuple_Type, &layout, &described, &provider_named, &read.waited_s, &read.threads_min_s,
                                     &read.subprocess_min_s, &read.hook_every, &read.useful, &read.success)) {
        return NULL;
    }
    read.provider_named = provider_named != 0;
    if (read.hook_every < 3) {
        PyErr_SetString(PyExc_ValueError, "the hook is measured in one of at least three attempts");
        return NULL;
    }
    Parts found;
    Py_ssize_t at[SLOT_COUNT];
    if (!is_our_layout(layout, described) || !read_parts(given, &found) || !find_slots(given, at) || !name_headers()) {
        return NULL;
    }
    keep_parts(&found);
    memcpy(slot_at, at, sizeof(at));
    numbers = read;
    Py_RETURN_NONE;
}

#define METHOD(name, doc) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, doc}

static PyMethodDef recorder_methods[] = {
    METHOD(begin, "An attempt begins: as in Python, but a plain one is not begun there."),
    METHOD(enter_body, "Its body begins."),
    METHOD(leave_body, "Its body ended."),
    METHOD(end_plainly, "It ended. False, with nothing done, where anything about it is not plain."),
};

static PyObject *
methods(PyObject *Py_UNUSED(module), PyObject *type)
{
    if (parts.Recorder == NULL || !PyType_Check(type)
        || !PyType_IsSubtype((PyTypeObject *)type, (PyTypeObject *)parts.Recorder)) {
        PyErr_SetString(PyExc_TypeError, "a class of recorders, after `prepare`");
        return NULL;
    }
    PyObject *found = PyDict_New();
    for (size_t at = 0; found != NULL && at < Py_ARRAY_LENGTH(recorder_methods); at++) {
        PyObject *method = PyDescr_NewMethod((PyTypeObject *)type, &recorder_methods[at]);
        if (method == NULL || PyDict_SetItemString(found, recorder_methods[at].ml_name, method) < 0) {
            Py_CLEAR(found);
        }
        Py_XDECREF(method);
    }
    return found;
}

static PyObject *
crc32(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer data;
    unsigned int before = 0;
    if (!PyArg_ParseTuple(arguments, "y*|I:crc32", &data, &before)) {
        return NULL;
    }
    uint32_t sum = crc32_of(before, data.buf, (size_t)data.len);
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(sum);
}

static PyMethodDef functions[] = {
    {"prepare", (PyCFunction)(void (*)(void))prepare, METH_VARARGS | METH_KEYWORDS,
     "Look up where objects keep their slots; ValueError says what is not as it was when this was written."},
    {"methods", methods, METH_O, "Class of recorders -> its methods in C, by name."},
    {"crc32", crc32, METH_VARARGS, "As zlib.crc32."},
    {NULL, NULL, 0, NULL},
};

static int
execute(PyObject *module)
{
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "subinterpreters are not measured");
        return -1;
    }
    if (no_arguments == NULL) {
        no_arguments = PyTuple_New(0);
    }
    if (no_arguments == NULL || PyType_Ready(&TimedType) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "Timed", (PyObject *)&TimedType);
}

static PyModuleDef_Slot phases[] = {
    {Py_mod_exec, execute},
#ifdef Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "taskwatt_fast._attempts",
    .m_doc = "Measures plain attempts of Celery tasks in C.",
    .m_methods = functions,
    .m_slots = phases,
};

PyMODINIT_FUNC
PyInit__attempts(void)
{
    return PyModuleDef_Init(&definition);
}
