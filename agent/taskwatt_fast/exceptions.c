/* Exceptions that cannot be raised where they are: one of the step's is put aside while a hook of ours runs; one that a
 * hook raises goes to the Python side, and to the user's code only if meant for it (a signal's), after the step. */
#include "carrier.h"

static _Thread_local PyObject *interruption;

#if PY_VERSION_HEX < 0x030C0000
PyObject *
take_exception(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

void
give_exception(PyObject *exception)
{
    if (exception == NULL) {
        PyErr_Clear();
        return;
    }
    PyErr_Restore(Py_NewRef(Py_TYPE(exception)), exception, PyException_GetTraceback(exception));
}
#else
PyObject *
take_exception(void)
{
    return PyErr_GetRaisedException();
}

void
give_exception(PyObject *exception)
{
    PyErr_SetRaisedException(exception);
}
#endif

void
note_failure(void)
{
    PyObject *exception = take_exception();
    if (exception == NULL) {
        return;
    }
    PyObject *answer = NULL;
    if (hooks.broken != NULL) {
        PyObject *broken = Py_NewRef(hooks.broken);
        answer = PyObject_CallOneArg(broken, exception);
        Py_DECREF(broken);
    }
    if (answer == NULL) {
        PyErr_Clear();
    }
    if (answer == Py_True && interruption == NULL) {
        interruption = Py_NewRef(exception);
    }
    Py_XDECREF(answer);
    Py_DECREF(exception);
}

PyObject *
with_interruption(PyObject *result)
{
    if (LIKELY(interruption == NULL)) {
        return result;
    }
    PyObject *exception = interruption;
    interruption = NULL;
    if (result == NULL) { /* what the step raised is the user's as well, and was first */
        Py_DECREF(exception);
        return NULL;
    }
    Py_DECREF(result);
    give_exception(exception);
    return NULL;
}
