/* Finds on live objects where CPython keeps what the hooks read. Whatever is not found exactly once is a refusal. */
#include "carrier.h"

#include <structmember.h>
#include <unistd.h>

Layout layout;

static PyObject *
refused(const char *reason)
{
    PyErr_SetString(PyExc_ValueError, reason);
    return NULL;
}

/* The place at which each of `objects` holds the pointer at the same index of `values`; -1 if there is none, and, where
 * it has to be the only one, if there are more. */
static Py_ssize_t
place_of(PyObject *objects, PyObject *values, bool only)
{
    Py_ssize_t number = PyTuple_GET_SIZE(objects), place = -1;
    Py_ssize_t end = Py_TYPE(PyTuple_GET_ITEM(objects, 0))->tp_basicsize;
    for (Py_ssize_t offset = sizeof(PyObject); offset + (Py_ssize_t)sizeof(void *) <= end; offset += sizeof(void *)) {
        Py_ssize_t index = 0;
        while (index < number
               && *(PyObject **)((char *)PyTuple_GET_ITEM(objects, index) + offset) == PyTuple_GET_ITEM(values, index)) {
            index++;
        }
        if (index == number) {
            if (place >= 0) {
                return -1;
            }
            place = offset;
            if (!only) {
                break;
            }
        }
    }
    return place;
}

static int32_t
word(PyObject *object, Py_ssize_t offset)
{
    return *(int32_t *)((char *)object + offset);
}

static bool
all_hold(PyObject *objects, Py_ssize_t offset, int32_t value)
{
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(objects); index++) {
        if (word(PyTuple_GET_ITEM(objects, index), offset) != value) {
            return false;
        }
    }
    return true;
}

/* The one word that tells pending, cancelled and finished tasks apart. */
static Py_ssize_t
place_of_state(PyObject *pending, PyObject *cancelled, PyObject *finished)
{
    Py_ssize_t place = -1, end = Py_TYPE(PyTuple_GET_ITEM(pending, 0))->tp_basicsize;
    for (Py_ssize_t offset = sizeof(PyObject); offset + 4 <= end; offset += 4) {
        int32_t first = word(PyTuple_GET_ITEM(pending, 0), offset);
        int32_t second = word(PyTuple_GET_ITEM(cancelled, 0), offset);
        int32_t third = word(PyTuple_GET_ITEM(finished, 0), offset);
        if (first == 0 && second == 1 && third == 2 && all_hold(pending, offset, first)
            && all_hold(cancelled, offset, second) && all_hold(finished, offset, third)) {
            if (place >= 0) {
                return -1;
            }
            place = offset;
        }
    }
    return place;
}

/* Reading a byte into it from a pipe fails where memory may only be read, and does not crash. */
static bool
is_writable(void *address, size_t length)
{
    int ends[2];
    if (pipe(ends) != 0) {
        return false;
    }
    bool writable = write(ends[1], address, length) == (ssize_t)length && read(ends[0], address, length) == (ssize_t)length;
    close(ends[0]);
    close(ends[1]);
    return writable;
}

static Py_ssize_t
slot_place(PyTypeObject *type, const char *name, PyObject *handle, PyObject *value)
{
    PyObject *descriptor = PyObject_GetAttrString((PyObject *)type, name);
    Py_ssize_t place = -1;
    if (descriptor == NULL) {
        PyErr_Clear();
        return -1;
    }
    if (Py_IS_TYPE(descriptor, &PyMemberDescr_Type)) {
        PyMemberDef *member = ((PyMemberDescrObject *)descriptor)->d_member;
        if (member->type == T_OBJECT_EX && member->offset + (Py_ssize_t)sizeof(void *) <= type->tp_basicsize
            && *(PyObject **)((char *)handle + member->offset) == value) {
            place = member->offset;
        }
    }
    Py_DECREF(descriptor);
    return place;
}

static bool
alike(PyObject *objects, PyTypeObject *type)
{
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(objects); index++) {
        if (!Py_IS_TYPE(PyTuple_GET_ITEM(objects, index), type)) {
            return false;
        }
    }
    return PyTuple_GET_SIZE(objects) > 1;
}

static PyObject *
probe_coroutines(Layout *found, PyObject *created, PyObject *codes, PyObject *names, PyObject *suspended)
{
#if PY_VERSION_HEX < 0x030E0000
    found->coro_state = offsetof(PyCoroObject, cr_frame_state);
#else
    return refused("the coroutines of this version of Python are not known");
#endif
    found->coro_created = *((signed char *)PyTuple_GET_ITEM(created, 0) + found->coro_state);
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(created); index++) {
        if (*((signed char *)PyTuple_GET_ITEM(created, index) + found->coro_state) != found->coro_created) {
            return refused("a coroutine's state was not found");
        }
    }
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(suspended); index++) {
        if (*((signed char *)PyTuple_GET_ITEM(suspended, index) + found->coro_state) == found->coro_created) {
            return refused("a coroutine's state was not found");
        }
    }
    found->coro_name = offsetof(PyCoroObject, cr_qualname);
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(created); index++) {
        if (*(PyObject **)((char *)PyTuple_GET_ITEM(created, index) + found->coro_name)
            != PyTuple_GET_ITEM(names, index)) {
            return refused("a coroutine's name was not found");
        }
    }
    /* Python 3.11 has it twice: in the coroutine, and in the frame within. */
    found->coro_code = place_of(created, codes, false);
    return found->coro_code < 0 ? refused("a coroutine's code was not found") : Py_None;
}

/* Arguments, all tuples of at least two but the last four: tasks that are pending, cancelled, finished and failed, the
 * exceptions of the failed; coroutines of the pending tasks; coroutines that never ran, their code and names;
 * suspended coroutines; step wrappers and the tasks they belong to; a wakeup and its task; a handle and its class. */
PyObject *
probe(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *pending, *cancelled, *finished, *failed, *exceptions, *coroutines, *created, *codes, *names, *suspended;
    PyObject *steps;
    PyObject *stepped, *wakeup, *woken, *handle, *handle_class;
    Layout found = {0};
    PyTypeObject *tuple = &PyTuple_Type;
    if (!PyArg_ParseTuple(arguments, "O!O!O!O!O!O!O!O!O!O!O!O!OOOO!:probe", tuple, &pending, tuple, &cancelled, tuple,
                          &finished, tuple, &failed, tuple, &exceptions, tuple, &coroutines, tuple, &created, tuple,
                          &codes, tuple, &names, tuple, &suspended, tuple, &steps, tuple, &stepped, &wakeup, &woken,
                          &handle, &PyType_Type, &handle_class)) {
        return NULL;
    }
    if (measuring) {
        return refused("it is installed already");
    }
    if (PyTuple_GET_SIZE(pending) < 2) {
        return refused("nothing to look at");
    }
    found.task_type = Py_TYPE(PyTuple_GET_ITEM(pending, 0));
    found.step_type = Py_TYPE(PyTuple_GET_ITEM(steps, 0));
    if (!alike(pending, found.task_type) || !alike(cancelled, found.task_type) || !alike(finished, found.task_type)
        || !alike(failed, found.task_type) || !alike(stepped, found.task_type) || !alike(steps, found.step_type)
        || !alike(created, &PyCoro_Type) || !alike(suspended, &PyCoro_Type) || !alike(codes, &PyCode_Type)
        || PyTuple_GET_SIZE(failed) != PyTuple_GET_SIZE(exceptions)
        || PyTuple_GET_SIZE(pending) != PyTuple_GET_SIZE(coroutines)
        || PyTuple_GET_SIZE(created) != PyTuple_GET_SIZE(codes) || PyTuple_GET_SIZE(created) != PyTuple_GET_SIZE(names)
        || PyTuple_GET_SIZE(steps) != PyTuple_GET_SIZE(stepped)) {
        return refused("tasks are not CPython's own");
    }
    if (found.task_type->tp_init == NULL || found.step_type->tp_call == NULL || found.step_type->tp_dictoffset != 0) {
        return refused("tasks are not entered as CPython's own are");
    }
    if (!PyCFunction_CheckExact(wakeup) || PyCFunction_GET_SELF(wakeup) != woken
        || PyCFunction_GET_FLAGS(wakeup) != METH_O) {
        return refused("the wakeup of a task is no builtin of one argument");
    }
    found.wakeup = ((PyCFunctionObject *)wakeup)->m_ml;
    if (!is_writable(&found.wakeup->ml_meth, sizeof(found.wakeup->ml_meth))
        || !is_writable(&found.step_type->tp_call, sizeof(found.step_type->tp_call))
        || !is_writable(&found.task_type->tp_init, sizeof(found.task_type->tp_init))) {
        return refused("a task's entries cannot be written to");
    }
    if ((found.step_task = place_of(steps, stepped, true)) < 0) {
        return refused("the task of a step was not found");
    }
    if ((found.task_coro = place_of(pending, coroutines, true)) < 0) {
        return refused("the coroutine of a task was not found");
    }
    if ((found.task_state = place_of_state(pending, cancelled, finished)) < 0) {
        return refused("the state of a task was not found");
    }
    found.task_cancelled = 1;
    found.task_finished = 2;
    if (!all_hold(failed, found.task_state, found.task_finished)
        || (found.task_exception = place_of(failed, exceptions, true)) < 0) {
        return refused("the exception of a task was not found");
    }
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(finished); index++) {
        if (*(PyObject **)((char *)PyTuple_GET_ITEM(finished, index) + found.task_exception) != NULL) {
            return refused("the exception of a task was not found");
        }
    }
    if (probe_coroutines(&found, created, codes, names, suspended) == NULL) {
        return NULL;
    }
    PyTypeObject *type = (PyTypeObject *)handle_class;
    const struct {
        const char *name;
        Py_ssize_t *place;
    } slots[] = {{"_callback", &found.handle_callback}, {"_args", &found.handle_args}, {"_context", &found.handle_context}};
    for (size_t index = 0; index < 3; index++) {
        PyObject *value = PyObject_GetAttrString(handle, slots[index].name);
        if (value == NULL) {
            return NULL;
        }
        *slots[index].place = slot_place(type, slots[index].name, handle, value);
        Py_DECREF(value);
        if (*slots[index].place < 0) {
            return refused("a handle keeps its callback elsewhere");
        }
    }
    if (!PyTuple_CheckExact(*(PyObject **)((char *)handle + found.handle_args))
        || !PyContext_CheckExact(*(PyObject **)((char *)handle + found.handle_context))) {
        return refused("a handle keeps its callback elsewhere");
    }
    if (layout.step_type != NULL
        && (layout.step_type != found.step_type || layout.wakeup != found.wakeup || layout.task_type != found.task_type)) {
        return refused("asyncio was imported twice");
    }
    Py_INCREF((PyObject *)found.step_type); /* never given back: the hooks call them as long as the process lives */
    Py_INCREF((PyObject *)found.task_type);
    layout = found;
    Py_RETURN_NONE;
}
