/* taskwatt_fast._carrier: measures the steps of event loops. See carrier.h for how, and __init__.py for when. */
#include "carrier.h"

#include <pthread.h>

Hooks hooks;
nanoseconds slow_ns;
bool measuring;
PyInterpreterState *home;

static void
set_hook(PyObject **hook, PyObject *value)
{
    PyObject *before = *hook;
    *hook = value == NULL || value == Py_None ? NULL : Py_NewRef(value);
    Py_XDECREF(before);
}

static PyObject *
start(PyObject *Py_UNUSED(module), PyObject *arguments, PyObject *names)
{
    static char *keywords[] = {"resolve", "adopt", "look", "slow", "broken", "slow_s", "protocol_calls",
                               "wrapping_protocol", "pure_steps", NULL};
    PyObject *resolve, *adopt, *look, *slow, *broken, *protocol_calls, *wrapping_protocol, *pure_steps;
    double slow_s;
    if (!PyArg_ParseTupleAndKeywords(arguments, names, "OOOOOdO!OO!:start", keywords, &resolve, &adopt, &look, &slow,
                                     &broken, &slow_s, &PyTuple_Type, &protocol_calls, &wrapping_protocol,
                                     &PyTuple_Type, &pure_steps)) {
        return NULL;
    }
    if (measuring || layout.step_type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, measuring ? "started already" : "nothing was probed");
        return NULL;
    }
    set_hook(&hooks.resolve, resolve);
    set_hook(&hooks.adopt, adopt);
    set_hook(&hooks.look, look);
    set_hook(&hooks.slow, slow);
    set_hook(&hooks.broken, broken);
    set_hook(&hooks.protocol_calls, protocol_calls);
    set_hook(&hooks.wrapping_protocol, wrapping_protocol);
    set_hook(&hooks.pure_steps, pure_steps);
    slow_ns = (nanoseconds)(slow_s * 1e9);
    installation++;
    measuring = true;
    hook_tasks();
    Py_RETURN_NONE;
}

static PyObject *
stop(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    unhook_tasks();
    measuring = false;
    set_hook(&hooks.resolve, NULL);
    set_hook(&hooks.adopt, NULL);
    set_hook(&hooks.look, NULL);
    set_hook(&hooks.slow, NULL);
    set_hook(&hooks.broken, NULL);
    set_hook(&hooks.protocol_calls, NULL);
    set_hook(&hooks.wrapping_protocol, NULL);
    set_hook(&hooks.pure_steps, NULL);
    set_hook(&hooks.account, NULL);
    forget_types();
    Py_RETURN_NONE;
}

static PyObject *
use_account(PyObject *Py_UNUSED(module), PyObject *variable)
{
    if (variable != Py_None && !PyContextVar_CheckExact(variable)) {
        PyErr_SetString(PyExc_TypeError, "a ContextVar, or None");
        return NULL;
    }
    set_hook(&hooks.account, variable);
    Py_RETURN_NONE;
}

static PyObject *
set_slow(PyObject *Py_UNUSED(module), PyObject *threshold)
{
    double slow_s = PyFloat_AsDouble(threshold);
    if (slow_s == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    slow_ns = (nanoseconds)(slow_s * 1e9);
    Py_RETURN_NONE;
}

static PyObject *
attach(PyObject *Py_UNUSED(module), PyObject *clock)
{
    if (!PyObject_TypeCheck(clock, &ClockType)) {
        PyErr_SetString(PyExc_TypeError, "a Clock");
        return NULL;
    }
    attach_clock((Clock *)clock);
    Py_RETURN_NONE;
}

static PyObject *
detach(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    detach_clock();
    Py_RETURN_NONE;
}

static PyObject *
forget(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    forget_types();
    Py_RETURN_NONE;
}

static PyObject *
settle(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    settle_step(current_clock);
    return with_interruption(Py_NewRef(Py_None));
}

static PyObject *
run_method(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *type, *original, *failed;
    int last_instruction, line_number;
    if (!PyArg_ParseTuple(arguments, "O!O!Oii:run_method", &PyType_Type, &type, &PyFunction_Type, &original, &failed,
                          &last_instruction, &line_number)) {
        return NULL;
    }
    if (layout.step_type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "nothing was probed");
        return NULL;
    }
    hook_tasks(); /* once, so that the originals are known; `start` puts them in again */
    if (!measuring) {
        unhook_tasks();
    }
    return method_of_handles((PyTypeObject *)type, original, failed, last_instruction, line_number);
}

static PyObject *
hooked(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return PyLong_FromLong(hooked_tasks());
}

static PyMethodDef functions[] = {
    {"hooked", hooked, METH_NOARGS, "How many of the three entries of tasks are ours now."},
    {"probe", probe, METH_VARARGS, "Find where live objects keep what is read of them; ValueError says what was not found."},
    {"run_method", run_method, METH_VARARGS, "(Handle, its _run, except clause, place of the call) -> a method for it."},
    {"start", (PyCFunction)(void (*)(void))start, METH_VARARGS | METH_KEYWORDS, "Measure steps from now on."},
    {"stop", stop, METH_NOARGS, "Measure nothing, hook nothing, keep nothing; also while steps run."},
    {"use_account", use_account, METH_O, "The ContextVar with the account that pays; None: there are none."},
    {"set_slow", set_slow, METH_O, "From how many seconds on a step is slow."},
    {"attach", attach, METH_O, "This Clock measures the calling thread."},
    {"detach", detach, METH_NOARGS, "The calling thread is not measured any more."},
    {"forget", forget, METH_NOARGS, "Ask anew whose figures the steps of each type add to."},
    {"settle", settle, METH_NOARGS, "Bill what the calling thread's step has used so far to the current account."},
    {NULL, NULL, 0, NULL},
};

static int
execute(PyObject *module)
{
    static bool watched;
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "subinterpreters are not measured");
        return -1;
    }
    home = PyInterpreterState_Main();
    if (PyType_Ready(&FiguresType) < 0 || PyType_Ready(&ClockType) < 0 || PyType_Ready(&WaitType) < 0) {
        return -1;
    }
    if (!watched && pthread_atfork(NULL, NULL, resume_after_fork) == 0) {
        watched = true; /* cannot be taken back; does nothing where no clock is attached */
    }
    if (add_accounts(module) < 0 || add_requests(module) < 0 || add_exchanges(module) < 0 || add_routes(module) < 0
        || add_files(module) < 0 || add_dozing(module) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "Figures", (PyObject *)&FiguresType) < 0
               || PyModule_AddObjectRef(module, "Clock", (PyObject *)&ClockType) < 0
               || PyModule_AddObjectRef(module, "Wait", (PyObject *)&WaitType) < 0
        ? -1
        : 0;
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
    .m_name = "taskwatt_fast._carrier",
    .m_doc = "Measures the steps of event loops in C.",
    .m_methods = functions,
    .m_slots = phases,
};

PyMODINIT_FUNC
PyInit__carrier(void)
{
    return PyModuleDef_Init(&definition);
}
