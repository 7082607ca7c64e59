/* Figures of coroutine and callback types, found by what their steps have in common: the code that runs. */
#include "table.h"

#include <structmember.h>

/* --- asking Python, once a type ------------------------------------------------------------------------------------ */

/* Borrowed from the table, or from Python's own books, which keep figures until the hooks are out. */
static Figures *
resolved(PyObject *subject, PyObject *handle, Identity identity, PyObject *kept, PyObject *also_kept)
{
    if (hooks.resolve == NULL) {
        return NULL;
    }
    Py_INCREF(subject);
    Py_XINCREF(kept);
    Py_XINCREF(also_kept);
    PyObject *resolve = Py_NewRef(hooks.resolve);
    PyObject *task = handle == NULL ? Py_True : Py_False;
    PyObject *answer = PyObject_CallFunctionObjArgs(resolve, subject, task, handle == NULL ? Py_None : handle, NULL);
    Py_DECREF(resolve);
    Figures *figures = NULL;
    if (answer == NULL) {
        note_failure();
    }
    else if (PyObject_TypeCheck(answer, &FiguresType) && measuring && Py_REFCNT(answer) > 1) {
        figures = (Figures *)answer;
        if (identity.key != NULL) {
            remember(identity, kept, also_kept, figures);
        }
    }
    Py_XDECREF(answer);
    Py_XDECREF(also_kept);
    Py_XDECREF(kept);
    Py_DECREF(subject);
    return figures;
}

static PyObject *
attribute(PyObject *object, const char *name)
{
    PyObject *value = get_attribute(object, name);
    if (value == NULL) {
        PyErr_Clear();
    }
    return value;
}

/* --- coroutines ---------------------------------------------------------------------------------------------------- */

static inline PyObject *
field(PyObject *object, Py_ssize_t place)
{
    return *(PyObject **)((char *)object + place);
}

static inline bool
is_native(PyObject *coroutine)
{
    return PyCoro_CheckExact(coroutine) || PyGen_CheckExact(coroutine);
}

/* Of a step that no future woke: does the coroutine begin with it? */
bool
is_first_step(PyObject *coroutine)
{
    if (LIKELY(is_native(coroutine))) {
        return *((signed char *)coroutine + layout.coro_state) == layout.coro_created;
    }
    PyObject *suspended = attribute(coroutine, "cr_suspended");
    if (suspended == NULL) {
        suspended = attribute(coroutine, "gi_suspended");
    }
    if (suspended == NULL) { /* Cython's: it waits for something or has not begun */
        suspended = attribute(coroutine, "cr_await");
        bool waits = suspended != NULL && suspended != Py_None;
        Py_XDECREF(suspended);
        return !waits;
    }
    bool first = suspended != Py_True;
    Py_DECREF(suspended);
    return first;
}

PyObject *
coroutine_of(PyObject *task)
{
    return field(task, layout.task_coro);
}

Figures *
figures_of_coroutine(PyObject *coroutine)
{
    Figures *figures;
    if (LIKELY(is_native(coroutine))) {
        PyObject *code = field(coroutine, layout.coro_code), *name = field(coroutine, layout.coro_name);
        Identity identity = {code, name};
        if (LIKELY((figures = found(identity)) != NULL)) {
            return figures;
        }
        if (code == NULL || !PyCode_Check(code)) {
            identity.key = NULL;
        }
        return resolved(coroutine, NULL, identity, code, name);
    }
    PyObject *code = attribute(coroutine, "cr_code"), *name = attribute(coroutine, "__qualname__");
    Identity identity = {code, name};
    if (code == NULL || !PyCode_Check(code)) {
        identity.key = NULL; /* nothing that its steps have in common is safe to keep: Python is asked each time */
    }
    figures = identity.key == NULL ? NULL : found(identity);
    if (figures == NULL) {
        figures = resolved(coroutine, NULL, identity, code, name);
    }
    Py_XDECREF(code);
    Py_XDECREF(name);
    return figures;
}

/* --- callbacks ----------------------------------------------------------------------------------------------------- */

bool
contains(PyObject *codes, PyObject *code)
{
    if (codes == NULL) {
        return false;
    }
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(codes); index++) {
        if (PyTuple_GET_ITEM(codes, index) == code) {
            return true;
        }
    }
    return false;
}

/* The class of the protocol that a transport calls, beneath TLS; NULL: there is none. New reference. */
static PyObject *
protocol_class(PyObject *transport)
{
    PyObject *protocol = attribute(transport, "_protocol");
    if (protocol != NULL && (PyObject *)Py_TYPE(protocol) == hooks.wrapping_protocol) {
        PyObject *inner = attribute(protocol, "_app_protocol");
        if (inner != NULL) {
            Py_SETREF(protocol, inner);
        }
    }
    PyObject *class = protocol == NULL ? NULL : Py_NewRef(Py_TYPE(protocol));
    Py_XDECREF(protocol);
    return class;
}

Figures *
figures_of_callback(PyObject *callback, PyObject *handle)
{
    PyTypeObject *type = Py_TYPE(callback);
    Figures *figures;
    if (type == &PyCFunction_Type) {
        PyMethodDef *definition = ((PyCFunctionObject *)callback)->m_ml;
        Identity identity = {definition, definition->ml_name};
        figures = found(identity);
        return LIKELY(figures != NULL) ? figures : resolved(callback, handle, identity, NULL, NULL);
    }
    bool method = type == &PyMethod_Type;
    PyObject *function = method ? PyMethod_GET_FUNCTION(callback) : callback;
    if (!PyFunction_Check(function)) {
        return resolved(callback, handle, (Identity){NULL, NULL}, NULL, NULL);
    }
    PyObject *code = PyFunction_GET_CODE(function), *class = NULL;
    if (method && contains(hooks.protocol_calls, code)) {
        class = protocol_class(PyMethod_GET_SELF(callback));
    }
    PyObject *mark = class == NULL ? ((PyFunctionObject *)function)->func_qualname : class;
    Identity identity = {code, mark};
    figures = found(identity);
    if (UNLIKELY(figures == NULL)) {
        figures = resolved(callback, handle, identity, code, mark);
    }
    Py_XDECREF(class);
    return figures;
}

/* --- how a task ended ---------------------------------------------------------------------------------------------- */

static int
pure_outcome(PyObject *task)
{
    PyObject *pending = take_exception();
    PyObject *state = attribute(task, "_state"), *exception = attribute(task, "_exception");
    int outcome = PENDING;
    if (state != NULL && PyUnicode_Check(state)) {
        if (PyUnicode_CompareWithASCIIString(state, "CANCELLED") == 0) {
            outcome = CANCELLED;
        }
        else if (PyUnicode_CompareWithASCIIString(state, "FINISHED") == 0) {
            outcome = exception == NULL || exception == Py_None ? COMPLETED : FAILED;
        }
    }
    Py_XDECREF(state);
    Py_XDECREF(exception);
    if (pending != NULL) {
        give_exception(pending);
    }
    return outcome;
}

int
outcome_of(PyObject *task, bool pure)
{
    if (UNLIKELY(pure)) {
        return pure_outcome(task);
    }
    int32_t state = *(int32_t *)((char *)task + layout.task_state);
    if (LIKELY(state != layout.task_finished)) {
        return state == layout.task_cancelled ? CANCELLED : PENDING;
    }
    return field(task, layout.task_exception) != NULL ? FAILED : COMPLETED;
}

/* --- the type ------------------------------------------------------------------------------------------------------ */

static int
figures_init(Figures *figures, PyObject *arguments, PyObject *names)
{
    static char *keywords[] = {"owner", NULL};
    PyObject *owner;
    if (!PyArg_ParseTupleAndKeywords(arguments, names, "O:Figures", keywords, &owner)) {
        return -1;
    }
    Py_XSETREF(figures->owner, Py_NewRef(owner));
    return 0;
}

static int
figures_traverse(Figures *figures, visitproc visit, void *arg)
{
    Py_VISIT(figures->owner);
    return 0;
}

static int
figures_clear(Figures *figures)
{
    Py_CLEAR(figures->owner);
    return 0;
}

static void
figures_dealloc(Figures *figures)
{
    PyObject_GC_UnTrack(figures);
    Py_CLEAR(figures->owner);
    PyMem_Free(figures->cost);
    Py_TYPE(figures)->tp_free((PyObject *)figures);
}

static bool
added(PyObject *owner, const char *name, PyObject *amount)
{
    PyObject *before = amount == NULL ? NULL : get_attribute(owner, name);
    PyObject *sum = before == NULL ? NULL : PyNumber_Add(before, amount);
    bool done = sum != NULL && set_attribute(owner, name, sum);
    Py_XDECREF(sum);
    Py_XDECREF(before);
    Py_XDECREF(amount);
    return done;
}

bool
add_count(PyObject *owner, const char *name, uint64_t count)
{
    return count == 0 || added(owner, name, PyLong_FromUnsignedLongLong(count));
}

static bool
added_count(PyObject *owner, const char *name, uint64_t *count)
{
    if (!add_count(owner, name, *count)) {
        return false;
    }
    *count = 0;
    return true;
}

bool
add_time(PyObject *owner, const char *name, nanoseconds time)
{
    return time == 0 || added(owner, name, PyFloat_FromDouble(seconds(time)));
}

static bool
raised_longest(PyObject *owner, nanoseconds longest)
{
    PyObject *before = get_attribute(owner, "longest_s");
    PyObject *now = before == NULL ? NULL : PyFloat_FromDouble(seconds(longest));
    int larger = now == NULL ? -1 : PyObject_RichCompareBool(now, before, Py_GT);
    bool done = larger == 0 || (larger == 1 && set_attribute(owner, "longest_s", now));
    Py_XDECREF(before);
    Py_XDECREF(now);
    return done;
}

static bool
added_costs(PyObject *owner, Figures *figures)
{
    PyObject *costs = get_attribute(owner, "costs");
    bool done = costs != NULL && PyList_Check(costs);
    if (costs != NULL && !done) {
        PyErr_SetString(PyExc_TypeError, "costs are no list");
    }
    for (int index = 0; done && index < figures->costs && PyList_GET_SIZE(costs) < COSTS; index++) {
        PyObject *cost = Py_BuildValue("ld", figures->cost[index].alive, seconds(figures->cost[index].cpu));
        done = cost != NULL && PyList_Append(costs, cost) == 0;
        Py_XDECREF(cost);
    }
    figures->costs = 0;
    Py_XDECREF(costs);
    return done;
}

/* All of it under the GIL and without a line of Python, so that a reading on another thread does not come between. */
bool
add_to_owner(Figures *figures)
{
    PyObject *owner = Py_NewRef(figures->owner);
    nanoseconds wall = figures->wall, cpu = figures->cpu, own = figures->own, longest = figures->longest;
    figures->wall = figures->cpu = figures->own = figures->longest = 0;
    bool done = added_count(owner, "steps", &figures->steps)
        && added_count(owner, "self_wakes", &figures->self_wakes) && added_count(owner, "started", &figures->started)
        && added_count(owner, "completed", &figures->completed) && added_count(owner, "failed", &figures->failed)
        && added_count(owner, "cancelled", &figures->cancelled) && add_time(owner, "wall_s", wall)
        && add_time(owner, "correction_s", cpu - wall) && add_time(owner, "paid_s", cpu - own)
        && (longest == 0 || raised_longest(owner, longest)) && (figures->costs == 0 || added_costs(owner, figures));
    Py_DECREF(owner);
    return done;
}

static PyObject *
figures_flush(Figures *figures, PyObject *Py_UNUSED(none))
{
    return add_to_owner(figures) ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef figures_methods[] = {
    {"flush", (PyCFunction)figures_flush, METH_NOARGS,
     "Add what was counted since the last flush to the owner's attributes (those of taskwatt's CoroutineType)."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef figures_members[] = {
    {"owner", T_OBJECT, offsetof(Figures, owner), READONLY, "Whose figures these are."},
    {"steps", T_ULONGLONG, offsetof(Figures, steps), READONLY, "Since the last flush."},
    {"until_look", T_INT, offsetof(Figures, until_look), 0, "How many steps run before the next one is looked at."},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject FiguresType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "taskwatt_fast.Figures",
    .tp_doc = "Figures(owner): what the steps of one type used since this was last added to the owner.",
    .tp_basicsize = sizeof(Figures),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)figures_init,
    .tp_dealloc = (destructor)figures_dealloc,
    .tp_traverse = (traverseproc)figures_traverse,
    .tp_clear = (inquiry)figures_clear,
    .tp_methods = figures_methods,
    .tp_members = figures_members,
};
