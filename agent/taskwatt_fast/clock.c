/* The clock of a thread as Python sees it: what runs now and since when. steps.c drives it. */
#include "carrier.h"

#include <structmember.h>

static void
clock_dealloc(Clock *clock)
{
    PyTypeObject *type = Py_TYPE(clock);
    drop_steps(clock, 0);
    Py_CLEAR(clock->stamped);
    type->tp_free((PyObject *)clock);
}

static PyObject *
clock_step_since(Clock *clock, void *Py_UNUSED(closure))
{
    return PyFloat_FromDouble(clock->depth > 0 ? seconds(clock->step[0].start) : 0.0);
}

static PyObject *
clock_handle(Clock *clock, void *Py_UNUSED(closure))
{
    return Py_NewRef(clock->depth > 0 ? clock->step[0].running : Py_None);
}

static PyObject *
clock_figures(Clock *clock, void *Py_UNUSED(closure))
{
    return Py_NewRef(clock->depth > 0 ? (PyObject *)clock->step[clock->depth - 1].figures : Py_None);
}

static PyObject *
clock_end(Clock *clock, void *Py_UNUSED(closure))
{
    return PyFloat_FromDouble(seconds(clock->end));
}

static PyObject *
clock_pause(Clock *clock, PyObject *Py_UNUSED(none))
{
    pause_steps(clock);
    Py_RETURN_NONE;
}

static PyObject *
clock_resume(Clock *clock, PyObject *Py_UNUSED(none))
{
    resume_steps(clock);
    Py_RETURN_NONE;
}

static int
clock_set_stamped(Clock *clock, PyObject *handle, void *Py_UNUSED(closure))
{
    PyObject *before = clock->stamped;
    clock->stamped = handle == NULL || handle == Py_None ? NULL : Py_NewRef(handle);
    Py_XDECREF(before);
    return 0;
}

static PyObject *
clock_stamped(Clock *clock, void *Py_UNUSED(closure))
{
    return Py_NewRef(clock->stamped == NULL ? Py_None : clock->stamped);
}

static PyGetSetDef clock_properties[] = {
    {"step_since", (getter)clock_step_since, NULL, "When the running step began, by perf_counter; 0.0 between steps.", NULL},
    {"end", (getter)clock_end, NULL, "When the last step ended, by perf_counter.", NULL},
    {"handle", (getter)clock_handle, NULL, "The running handle, or task where there is none; None between steps.", NULL},
    {"figures", (getter)clock_figures, NULL, "Of the innermost running step; None between steps.", NULL},
    {"stamped", (getter)clock_stamped, (setter)clock_set_stamped, "A handle to look at when it runs, or None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef clock_methods[] = {
    {"pause", (PyCFunction)clock_pause, METH_NOARGS, "Another loop begins to run inside of the running step."},
    {"resume", (PyCFunction)clock_resume, METH_NOARGS, "It has ended: what it took is not the step's."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef clock_members[] = {
    {"alive", T_LONG, offsetof(Clock, alive), 0, "Tasks that began a step here and have not ended."},
    {"detail", T_BOOL, offsetof(Clock, detail), 0, "Does another ledger pay for what runs here?"},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject ClockType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "taskwatt_fast.Clock",
    .tp_doc = "The steps of the loops of one thread.",
    .tp_basicsize = sizeof(Clock),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)clock_dealloc,
    .tp_methods = clock_methods,
    .tp_members = clock_members,
    .tp_getset = clock_properties,
};
