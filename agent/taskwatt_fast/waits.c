/* Where a stock loop waits: what stands in for its selector's `select`. Twin of `_watched` in taskwatt_asyncio's
 * selecting.py, which says what the figures mean. They are kept here and added to the loop's when those are read. */
#include "carrier.h"

#include <structmember.h>

enum { BUCKETS = 16 };

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *select, *ready; /* the original, bound; the loop's handles that are ready */
    PyObject *long_period, *failed; /* called with a busy period longer than `short_ns`; when the depth is not seen */
    PyObject *looked; /* the type of the step that was looked at and was the last one ready, or NULL */
    PyObject *rouse; /* called once when the loop stops waiting, or NULL */
    nanoseconds busy_since, idle_since; /* 0: not so */
    nanoseconds busy, idle, short_ns;
    uint64_t iterations;
    nanoseconds ready_time[BUCKETS];
    Py_ssize_t bound[BUCKETS], bounds; /* upper bounds of the buckets of how many are ready, but for the last one */
    Py_ssize_t bucket, deepest;
    bool seen; /* is the depth? */
} Wait;

static void
call_hook(PyObject *hook, PyObject *argument)
{
    PyObject *kept = Py_NewRef(hook);
    PyObject *answer = argument == NULL ? PyObject_CallNoArgs(kept) : PyObject_CallOneArg(kept, argument);
    Py_DECREF(kept);
    if (answer == NULL) {
        note_failure();
    }
    Py_XDECREF(answer);
}

static void
end_busy_period(Wait *wait, nanoseconds now)
{
    nanoseconds busy = now - wait->busy_since;
    wait->busy_since = 0;
    wait->busy += busy;
    wait->ready_time[wait->bucket] += busy;
    if (UNLIKELY(busy > wait->short_ns)) {
        PyObject *length = PyFloat_FromDouble(seconds(busy));
        if (length == NULL) {
            PyErr_Clear();
            return;
        }
        call_hook(wait->long_period, length);
        Py_DECREF(length);
    }
}

static void
count_looked(Wait *wait)
{
    PyObject *stats = wait->looked;
    wait->looked = NULL;
    Py_ssize_t woken = PyObject_Size(wait->ready);
    if (woken < 0 || !add_count(stats, "last", 1) || (woken > 0 && !add_count(stats, "woke", 1))) {
        note_failure();
    }
    Py_DECREF(stats);
}

static void
call_rouse(Wait *wait)
{
    PyObject *rouse = wait->rouse;
    wait->rouse = NULL;
    call_hook(rouse, NULL);
    Py_DECREF(rouse);
}

static void
note_depth(Wait *wait, PyObject *events)
{
    Py_ssize_t ready = PyObject_Size(wait->ready), met = ready < 0 ? -1 : PyObject_Size(events);
    if (UNLIKELY(met < 0)) {
        PyErr_Clear();
        wait->seen = false;
        call_hook(wait->failed, NULL);
        return;
    }
    Py_ssize_t depth = ready + met, bucket = 0;
    while (bucket < wait->bounds && depth > wait->bound[bucket]) {
        bucket++;
    }
    wait->bucket = bucket;
    if (depth > wait->deepest) {
        wait->deepest = depth;
    }
}

static PyObject *
call_select(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *names)
{
    static PyObject *zero;
    Wait *wait = (Wait *)self;
    PyObject *timeout = PyVectorcall_NARGS(flags) + (names == NULL ? 0 : PyTuple_GET_SIZE(names)) > 0 ? arguments[0] : Py_None;
    if (zero == NULL && (zero = PyLong_FromLong(0)) == NULL) {
        return NULL;
    }
    int asks = timeout == Py_None ? 0 : PyObject_RichCompareBool(timeout, zero, Py_LE);
    if (asks < 0) {
        return PyObject_Vectorcall(wait->select, arguments, flags, names);
    }
    Py_INCREF(self);
    PyObject *select = Py_NewRef(wait->select);
    nanoseconds began = wall_clock();
    if (LIKELY(wait->busy_since != 0)) {
        end_busy_period(wait, began);
    }
    wait->idle_since = began;
    if (UNLIKELY(wait->looked != NULL)) {
        count_looked(wait);
    }
    PyObject *events = PyObject_Vectorcall(select, arguments, flags, names);
    if (LIKELY(events != NULL && wait->seen)) {
        note_depth(wait, events);
    }
    nanoseconds ended = wall_clock();
    if (LIKELY(events != NULL)) {
        wait->iterations++;
        *(asks ? &wait->busy : &wait->idle) += ended - began;
        wait->idle_since = 0;
    }
    wait->busy_since = ended;
    if (UNLIKELY(wait->rouse != NULL && events != NULL)) {
        call_rouse(wait);
    }
    Py_DECREF(select);
    Py_DECREF(self);
    return with_interruption(events);
}

static PyObject *
wait_watch(Wait *wait, PyObject *arguments)
{
    PyObject *select, *ready, *bounds, *long_period, *failed;
    double short_s;
    if (!PyArg_ParseTuple(arguments, "OOO!dOO:watch", &select, &ready, &PyTuple_Type, &bounds, &short_s, &long_period,
                          &failed)) {
        return NULL;
    }
    if (PyTuple_GET_SIZE(bounds) >= BUCKETS) {
        PyErr_SetString(PyExc_ValueError, "too many buckets");
        return NULL;
    }
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(bounds); index++) {
        wait->bound[index] = PyLong_AsSsize_t(PyTuple_GET_ITEM(bounds, index));
        if (wait->bound[index] == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    wait->bounds = PyTuple_GET_SIZE(bounds);
    wait->short_ns = (nanoseconds)(short_s * 1e9);
    wait->seen = true;
    Py_XSETREF(wait->select, Py_NewRef(select));
    Py_XSETREF(wait->ready, Py_NewRef(ready));
    Py_XSETREF(wait->long_period, Py_NewRef(long_period));
    Py_XSETREF(wait->failed, Py_NewRef(failed));
    return Py_NewRef((PyObject *)wait);
}

static bool
added_to_bucket(PyObject *figures, Py_ssize_t index, nanoseconds time)
{
    PyObject *ready = get_attribute(figures, "ready");
    PyObject *before = ready == NULL ? NULL : PySequence_GetItem(ready, index);
    PyObject *sum = before == NULL ? NULL : PyFloat_FromDouble(PyFloat_AsDouble(before) + seconds(time));
    bool done = sum != NULL && PySequence_SetItem(ready, index, sum) == 0;
    Py_XDECREF(sum);
    Py_XDECREF(before);
    Py_XDECREF(ready);
    return done;
}

/* All of it under the GIL and without a line of Python, as in Figures.flush. */
static PyObject *
wait_flush(Wait *wait, PyObject *figures)
{
    nanoseconds busy = wait->busy, idle = wait->idle;
    wait->busy = wait->idle = 0;
    bool done = add_time(figures, "busy_s", busy) && add_time(figures, "idle_s", idle)
        && add_count(figures, "iterations", wait->iterations);
    wait->iterations = 0;
    for (Py_ssize_t index = 0; done && index <= wait->bounds; index++) {
        nanoseconds time = wait->ready_time[index];
        wait->ready_time[index] = 0;
        done = time == 0 || added_to_bucket(figures, index, time);
    }
    if (done && wait->deepest > 0) {
        PyObject *before = get_attribute(figures, "ready_max"), *now = PyLong_FromSsize_t(wait->deepest);
        int larger = before == NULL || now == NULL ? -1 : PyObject_RichCompareBool(now, before, Py_GT);
        done = larger == 0 || (larger > 0 && set_attribute(figures, "ready_max", now));
        Py_XDECREF(now);
        Py_XDECREF(before);
        wait->deepest = 0;
    }
    return done ? Py_NewRef(Py_None) : NULL;
}

/* --- the type ------------------------------------------------------------------------------------------------------ */

static PyObject *
wait_new(PyTypeObject *type, PyObject *Py_UNUSED(arguments), PyObject *Py_UNUSED(names))
{
    Wait *wait = (Wait *)type->tp_alloc(type, 0);
    if (wait != NULL) {
        wait->call = call_select;
        wait->select = Py_NewRef(Py_None);
    }
    return (PyObject *)wait;
}

static int
wait_traverse(Wait *wait, visitproc visit, void *arg)
{
    Py_VISIT(wait->select);
    Py_VISIT(wait->ready);
    Py_VISIT(wait->long_period);
    Py_VISIT(wait->failed);
    Py_VISIT(wait->looked);
    Py_VISIT(wait->rouse);
    return 0;
}

static int
wait_clear(Wait *wait)
{
    Py_XSETREF(wait->select, Py_NewRef(Py_None));
    Py_CLEAR(wait->ready);
    Py_CLEAR(wait->long_period);
    Py_CLEAR(wait->failed);
    Py_CLEAR(wait->looked);
    Py_CLEAR(wait->rouse);
    return 0;
}

static void
wait_dealloc(Wait *wait)
{
    PyObject_GC_UnTrack(wait);
    wait_clear(wait);
    Py_CLEAR(wait->select);
    Py_TYPE(wait)->tp_free((PyObject *)wait);
}

static PyObject *
get_moment(Wait *wait, void *offset)
{
    return PyFloat_FromDouble(seconds(*(nanoseconds *)((char *)wait + (Py_ssize_t)offset)));
}

static int
set_moment(Wait *wait, PyObject *value, void *offset)
{
    double moment = value == NULL ? 0.0 : PyFloat_AsDouble(value);
    if (moment == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    *(nanoseconds *)((char *)wait + (Py_ssize_t)offset) = (nanoseconds)(moment * 1e9);
    return 0;
}

static PyObject *
get_object(Wait *wait, void *offset)
{
    PyObject *value = *(PyObject **)((char *)wait + (Py_ssize_t)offset);
    return Py_NewRef(value == NULL ? Py_None : value);
}

static int
set_object(Wait *wait, PyObject *value, void *offset)
{
    PyObject **place = (PyObject **)((char *)wait + (Py_ssize_t)offset);
    Py_XSETREF(*place, value == NULL || value == Py_None ? NULL : Py_NewRef(value));
    return 0;
}

static PyGetSetDef wait_properties[] = {
    {"busy_since", (getter)get_moment, (setter)set_moment, "By perf_counter; 0.0 while it waits.",
     (void *)offsetof(Wait, busy_since)},
    {"idle_since", (getter)get_moment, (setter)set_moment, "The opposite.", (void *)offsetof(Wait, idle_since)},
    {"looked", (getter)get_object, (setter)set_object, "Whose step was looked at and was the last one ready, or None.",
     (void *)offsetof(Wait, looked)},
    {"rouse", (getter)get_object, (setter)set_object, "Called once when the loop stops waiting, or None.",
     (void *)offsetof(Wait, rouse)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef wait_members[] = {
    {"depth", T_PYSSIZET, offsetof(Wait, bucket), 0, "Index of the bucket of the iteration at hand."},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef wait_methods[] = {
    {"watch", (PyCFunction)wait_watch, METH_VARARGS,
     "(select, ready, bounds of buckets, short_s, long_period, failed): itself, to be called in place of `select`."},
    {"flush", (PyCFunction)wait_flush, METH_O, "Add what was counted to these LoopFigures."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject WaitType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "taskwatt_fast.Wait",
    .tp_doc = "The waiting of one loop.",
    .tp_basicsize = sizeof(Wait),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_new = wait_new,
    .tp_dealloc = (destructor)wait_dealloc,
    .tp_traverse = (traverseproc)wait_traverse,
    .tp_clear = (inquiry)wait_clear,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Wait, call),
    .tp_methods = wait_methods,
    .tp_members = wait_members,
    .tp_getset = wait_properties,
};
