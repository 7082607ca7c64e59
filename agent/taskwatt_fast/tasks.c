/* The entries of CPython's own Task, for steps that no Python handle runs: uvloop's, and eager ones.
 *
 * A step is entered by calling a TaskStepMethWrapper (its type's tp_call) or the builtin `task_wakeup` (its method
 * definition, shared by all of them); an eager first step runs inside of Task.__init__ (tp_init). Those three places
 * are hooked. The hooks stay harmless for whoever keeps a pointer to one after they were taken out, such as a class
 * that was derived from Task meanwhile: they call the original. */
#include "carrier.h"

ternaryfunc original_step;
PyCFunction original_wakeup;
static initproc original_init;

void
begin_task_step(Entry *entry, PyObject *task, bool wrapped, PyObject *running, PyObject *woken_by)
{
    entry->clock = NULL;
    Clock *clock = clock_of_thread();
    PyObject *coroutine = coroutine_of(task);
    if (UNLIKELY(clock == NULL || coroutine == NULL)) {
        return;
    }
    Figures *figures = figures_of_coroutine(coroutine);
    if (UNLIKELY(figures == NULL)) {
        return;
    }
    bool pending = outcome_of(task, false) == PENDING, first = wrapped && is_first_step(coroutine);
    begin_step(entry, clock, figures, coroutine, running, woken_by);
    if (LIKELY(entry->clock != NULL)) {
        entry->task = pending ? task : NULL;
        if (first) {
            count_begin(entry);
        }
        else if (wrapped) {
            figures->self_wakes++;
        }
    }
}

/* A step of a task in pure Python (nest_asyncio's choice): a bound method of it. False: the callback is none. */
bool
begin_pure_step(Entry *entry, PyObject *method, PyObject *handle, PyObject *arguments)
{
    PyObject *function = PyMethod_GET_FUNCTION(method), *task = PyMethod_GET_SELF(method);
    if (LIKELY(!PyFunction_Check(function) || !contains(hooks.pure_steps, PyFunction_GET_CODE(function)))) {
        return false;
    }
    Clock *clock = clock_of_thread();
    PyObject *coroutine = clock == NULL ? NULL : get_attribute(task, "_coro");
    if (coroutine == NULL) {
        PyErr_Clear();
        return true;
    }
    Figures *figures = figures_of_coroutine(coroutine);
    if (figures != NULL) {
        bool woken = PyTuple_GET_SIZE(arguments) > 0, first = !woken && is_first_step(coroutine);
        bool pending = outcome_of(task, true) == PENDING;
        begin_step(entry, clock, figures, coroutine, handle, woken ? PyTuple_GET_ITEM(arguments, 0) : NULL);
        if (entry->clock != NULL) {
            entry->task = pending ? task : NULL;
            entry->pure = true;
            if (first) {
                count_begin(entry);
            }
            else if (!woken) {
                figures->self_wakes++;
            }
        }
    }
    Py_DECREF(coroutine);
    return true;
}

static PyObject *
call_step(PyObject *step, PyObject *arguments, PyObject *names)
{
    PyObject *task = *(PyObject **)((char *)step + layout.step_task);
    if (UNLIKELY(!measuring || task == NULL || PyInterpreterState_Get() != home)) {
        return original_step(step, arguments, names);
    }
    Entry entry;
    begin_task_step(&entry, task, true, task, NULL);
    PyObject *result = original_step(step, arguments, names);
    if (LIKELY(entry.clock != NULL)) {
        end_step(&entry, NULL);
    }
    return with_interruption(result);
}

static PyObject *
call_wakeup(PyObject *task, PyObject *future)
{
    if (UNLIKELY(!measuring || PyInterpreterState_Get() != home)) {
        return original_wakeup(task, future);
    }
    Entry entry;
    begin_task_step(&entry, task, false, task, future);
    PyObject *result = original_wakeup(task, future);
    if (LIKELY(entry.clock != NULL)) {
        end_step(&entry, NULL);
    }
    return with_interruption(result);
}

/* Is the first step going to run in Task.__init__? Only what is certainly true counts; nothing of the user's runs. */
static PyObject *
eager_coroutine(PyObject *arguments, PyObject *names)
{
    if (LIKELY(names == NULL) || get_item(names, "eager_start") != Py_True) {
        return NULL;
    }
    return PyTuple_GET_SIZE(arguments) > 0 ? PyTuple_GET_ITEM(arguments, 0) : get_item(names, "coro");
}

static PyObject *
context_of(PyObject *task)
{
    PyObject *context = call_method(task, "get_context");
    if (context == NULL || !PyContext_CheckExact(context)) {
        PyErr_Clear();
        Py_CLEAR(context);
    }
    return context;
}

static int
init_task(PyObject *task, PyObject *arguments, PyObject *names)
{
    PyObject *coroutine;
    if (!measuring || PyInterpreterState_Get() != home || (coroutine = eager_coroutine(arguments, names)) == NULL
        || !(PyCoro_CheckExact(coroutine) || PyGen_CheckExact(coroutine))) {
        return original_init(task, arguments, names);
    }
    Entry entry = {.clock = NULL};
    Clock *clock = clock_of_thread();
    Figures *figures = clock == NULL ? NULL : figures_of_coroutine(coroutine);
    if (figures != NULL) {
        begin_step(&entry, clock, figures, coroutine, coroutine, NULL);
        if (entry.clock != NULL && is_first_step(coroutine)) {
            count_begin(&entry);
        }
    }
    int result = original_init(task, arguments, names);
    if (entry.clock != NULL) {
        PyObject *context = NULL;
        if (result == 0) {
            entry.task = task;
            context = hooks.account != NULL ? context_of(task) : NULL;
        }
        end_step(&entry, context);
        Py_XDECREF(context);
    }
    PyObject *outcome = with_interruption(result == 0 ? Py_NewRef(Py_None) : NULL);
    Py_XDECREF(outcome);
    return outcome == NULL ? -1 : 0;
}

void
hook_tasks(void)
{
    if (original_step == NULL) {
        original_step = layout.step_type->tp_call;
        original_wakeup = layout.wakeup->ml_meth;
        original_init = layout.task_type->tp_init;
    }
    layout.step_type->tp_call = call_step;
    layout.wakeup->ml_meth = call_wakeup;
    layout.task_type->tp_init = init_task;
}

int
hooked_tasks(void)
{
    if (original_step == NULL) {
        return 0;
    }
    return (layout.step_type->tp_call == call_step) + (layout.wakeup->ml_meth == call_wakeup)
        + (layout.task_type->tp_init == init_task);
}

/* What somebody else has put there meanwhile stays, and so does our hook underneath: it only calls the original. */
void
unhook_tasks(void)
{
    if (original_step == NULL) {
        return;
    }
    if (layout.step_type->tp_call == call_step) {
        layout.step_type->tp_call = original_step;
    }
    if (layout.wakeup->ml_meth == call_wakeup) {
        layout.wakeup->ml_meth = original_wakeup;
    }
    if (layout.task_type->tp_init == init_task) {
        layout.task_type->tp_init = original_init;
    }
}
