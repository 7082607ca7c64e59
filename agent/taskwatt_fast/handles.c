/* Handle._run of the standard library's loops, measured: what it does, it does as the original.
 *
 * Exceptions go to the loop's handler with the same context, and with the same line on their traceback; whatever is
 * not as CPython makes it (a handle that was cancelled, arguments that are no tuple) is left to the original. */
#include "carrier.h"

#include <frameobject.h>

static PyObject *original_run, *except_clause, *frame_globals;
static PyCodeObject *frame_code;
static int last, line;

static inline PyObject *
slot_of(PyObject *handle, Py_ssize_t offset)
{
    return *(PyObject **)((char *)handle + offset);
}

static PyObject *
called(PyObject *callback, PyObject *arguments)
{
    PyObject *stack[8];
    Py_ssize_t number = PyTuple_GET_SIZE(arguments);
    if (UNLIKELY(number > 7)) {
        return PyObject_Call(callback, arguments, NULL);
    }
    for (Py_ssize_t index = 0; index < number; index++) {
        stack[index + 1] = PyTuple_GET_ITEM(arguments, index);
    }
    return PyObject_Vectorcall(callback, stack + 1, (size_t)number | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

/* What the original's frame adds to the traceback: its code and the place of the call. Without memory for it, nothing. */
static void
add_frame(void)
{
    PyObject *exception = take_exception();
    PyObject *next = PyException_GetTraceback(exception);
    PyFrameObject *frame = PyFrame_New(PyThreadState_Get(), frame_code, frame_globals, NULL);
    PyObject *traceback = frame == NULL ? NULL
                                        : PyObject_CallFunction((PyObject *)&PyTraceBack_Type, "OOii",
                                                                next == NULL ? Py_None : next, frame, last, line);
    if (traceback == NULL || PyException_SetTraceback(exception, traceback) < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(traceback);
    Py_XDECREF((PyObject *)frame);
    Py_XDECREF(next);
    give_exception(exception);
}

static PyObject *
handled(PyObject *handle)
{
    add_frame();
    if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
        return NULL;
    }
    PyObject *exception = take_exception();
    PyObject *clause = Py_NewRef(except_clause);
    PyObject *around = PyErr_GetHandledException();
    PyErr_SetHandledException(exception);
    PyObject *result = PyObject_CallFunctionObjArgs(clause, handle, exception, NULL);
    PyErr_SetHandledException(around);
    Py_XDECREF(around);
    Py_DECREF(clause);
    Py_DECREF(exception);
    return result;
}

static PyObject *
run(PyObject *handle, PyObject *Py_UNUSED(none))
{
    PyObject *callback = slot_of(handle, layout.handle_callback);
    PyObject *arguments = slot_of(handle, layout.handle_args);
    PyObject *context = slot_of(handle, layout.handle_context);
    if (UNLIKELY(callback == NULL || arguments == NULL || context == NULL || !PyTuple_CheckExact(arguments)
                 || !PyContext_CheckExact(context))) {
        return PyObject_CallOneArg(original_run, handle);
    }
    Py_INCREF(callback);
    Py_INCREF(arguments);
    Py_INCREF(context);

    /* Is it a task's? Then its entry is called directly, around our own hook of it. */
    PyTypeObject *type = Py_TYPE(callback);
    PyObject *task = NULL;
    bool wrapped = false;
    if (type == layout.step_type && PyTuple_GET_SIZE(arguments) == 0) {
        task = slot_of(callback, layout.step_task);
        wrapped = true;
    }
    else if (type == &PyCFunction_Type && ((PyCFunctionObject *)callback)->m_ml == layout.wakeup
             && PyTuple_GET_SIZE(arguments) == 1) {
        task = PyCFunction_GET_SELF(callback);
    }

    Entry entry = {.clock = NULL};
    if (task != NULL) {
        begin_task_step(&entry, task, wrapped, handle, wrapped ? NULL : PyTuple_GET_ITEM(arguments, 0));
    }
    else if (type != &PyMethod_Type || LIKELY(!begin_pure_step(&entry, callback, handle, arguments))) {
        Clock *clock = clock_of_thread();
        Figures *figures = clock == NULL ? NULL : figures_of_callback(callback, handle);
        if (LIKELY(figures != NULL)) {
            begin_step(&entry, clock, figures, NULL, handle, NULL);
        }
    }

    PyObject *result = NULL;
    if (LIKELY(PyContext_Enter(context) == 0)) {
        if (task == NULL) {
            result = called(callback, arguments);
        }
        else if (wrapped) {
            result = original_step(callback, arguments, NULL);
        }
        else {
            result = original_wakeup(task, PyTuple_GET_ITEM(arguments, 0));
        }
        if (LIKELY(entry.clock != NULL)) {
            end_step(&entry, NULL);
        }
        if (UNLIKELY(PyContext_Exit(context) < 0)) {
            Py_CLEAR(result);
        }
    }
    else if (entry.clock != NULL) {
        abandon_step(&entry);
    }
    Py_DECREF(context);
    Py_DECREF(arguments);
    Py_DECREF(callback);
    if (LIKELY(result != NULL)) {
        Py_DECREF(result);
        result = Py_NewRef(Py_None);
    }
    else {
        result = handled(handle);
    }
    return with_interruption(result);
}

static PyMethodDef run_definition = {"_run", run, METH_NOARGS, NULL};

PyObject *
method_of_handles(PyTypeObject *type, PyObject *original, PyObject *failed, int last_instruction, int line_number)
{
    PyObject *code = PyFunction_GetCode(original), *globals = PyFunction_GetGlobals(original);
    Py_XSETREF(frame_code, (PyCodeObject *)Py_NewRef(code));
    Py_XSETREF(frame_globals, Py_NewRef(globals));
    Py_XSETREF(original_run, Py_NewRef(original));
    Py_XSETREF(except_clause, Py_NewRef(failed));
    last = last_instruction;
    line = line_number;
    return PyDescr_NewMethod(type, &run_definition);
}
