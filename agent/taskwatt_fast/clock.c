/* The adaptive clock: a step is begun, cut into pieces, ended and billed. */
#include "carrier.h"

#include <structmember.h>

_Thread_local Clock *current_clock;
static _Thread_local uint64_t declined; /* the installation in which this thread was found to be, or became, none of ours */
static _Thread_local bool asking;
static _Thread_local PyObject *interruption;

uint64_t installation;

/* --- exceptions ---------------------------------------------------------------------------------------------------- */

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

/* --- whose thread -------------------------------------------------------------------------------------------------- */

/* A clock may outlive the installation in which it was attached, and a thread that was another interpreter's for a while. */
static inline bool
is_valid(Clock *clock)
{
    return measuring && clock->installation == installation && clock->thread == PyThreadState_Get();
}

static Clock *
adopted_clock(void)
{
    if (!measuring || asking || declined == installation || PyInterpreterState_Get() != home) {
        return NULL;
    }
    declined = installation;
    if (hooks.adopt == NULL) {
        return NULL;
    }
    asking = true;
    PyObject *adopt = Py_NewRef(hooks.adopt);
    PyObject *answer = PyObject_CallNoArgs(adopt);
    Py_DECREF(adopt);
    asking = false;
    if (answer == NULL) {
        note_failure();
        return NULL;
    }
    Py_DECREF(answer);
    Clock *clock = current_clock;
    return clock != NULL && is_valid(clock) ? clock : NULL;
}

Clock *
clock_of_thread(void)
{
    Clock *clock = current_clock;
    if (LIKELY(clock != NULL && is_valid(clock))) {
        return clock;
    }
    return adopted_clock();
}

void
attach_clock(Clock *clock)
{
    Clock *before = current_clock;
    clock->thread = PyThreadState_Get();
    clock->installation = installation;
    current_clock = (Clock *)Py_NewRef((PyObject *)clock);
    Py_XDECREF((PyObject *)before);
}

void
detach_clock(void)
{
    Clock *before = current_clock;
    current_clock = NULL;
    declined = installation;
    Py_XDECREF((PyObject *)before);
}

void
resume_after_fork(void)
{
    Clock *clock = current_clock;
    if (clock != NULL) { /* the child's one thread begins with a CPU clock of its own */
        clock->cpu_base = cpu_clock();
        clock->piece = clock->end = clock->wall_base = wall_clock();
    }
}

/* --- pieces -------------------------------------------------------------------------------------------------------- */

static inline nanoseconds
cut(Clock *clock, nanoseconds now)
{
    nanoseconds wall = now - clock->piece;
    nanoseconds cpu = wall;
    clock->piece = now;
    if (UNLIKELY(wall > LONG_NS)) {
        nanoseconds used = cpu_clock();
        nanoseconds lost = (now - clock->wall_base) - (used - clock->cpu_base);
        clock->cpu_base = used;
        clock->wall_base = now;
        if (lost > 0) {
            cpu -= lost < wall ? lost : wall;
        }
    }
    return cpu;
}

static inline void
add_piece(Clock *clock, Step *step, nanoseconds now)
{
    nanoseconds cpu = cut(clock, now);
    step->cpu += cpu;
    step->unbilled += cpu;
}

/* Does a row pay for it? Runs Python code where accounts are in pure Python; needs no exception to be pending. */
static bool
paid_by_account(nanoseconds cpu, PyObject *context)
{
    static PyObject *get, *bill;
    PyObject *account = NULL;
    bool paid = false;
    if ((get == NULL && (get = PyUnicode_InternFromString("get")) == NULL)
        || (bill == NULL && (bill = PyUnicode_InternFromString("bill")) == NULL)) {
        note_failure();
        return false;
    }
    if (context != NULL) {
        account = PyObject_CallMethodOneArg(context, get, hooks.account);
        if (account == NULL) {
            note_failure();
            return false;
        }
    }
    else if (PyContextVar_Get(hooks.account, NULL, &account) < 0) {
        note_failure();
        return false;
    }
    if (account == NULL || account == Py_None) {
        Py_XDECREF(account);
        return false;
    }
    if (LIKELY(PyObject_TypeCheck(account, &AccountType))) {
        paid = bill_account((Account *)account, seconds(cpu));
        Py_DECREF(account);
        return paid;
    }
    PyObject *amount = PyFloat_FromDouble(seconds(cpu));
    PyObject *answer = amount == NULL ? NULL : PyObject_CallMethodOneArg(account, bill, amount);
    Py_XDECREF(amount);
    Py_DECREF(account);
    if (answer == NULL) {
        note_failure();
    }
    else {
        paid = answer == Py_True;
        Py_DECREF(answer);
    }
    return paid;
}

static void
pay(Clock *clock, Figures *figures, nanoseconds cpu, PyObject *context)
{
    if (UNLIKELY(hooks.account != NULL)) {
        PyObject *pending = take_exception();
        bool paid = paid_by_account(cpu, context);
        if (pending != NULL) {
            give_exception(pending);
        }
        if (paid) {
            return;
        }
    }
    if (!clock->detail) {
        figures->own += cpu;
    }
}

static void
report_slow(Clock *clock, Figures *figures, nanoseconds start, nanoseconds wall, nanoseconds cpu)
{
    if (hooks.slow == NULL) {
        return;
    }
    PyObject *pending = take_exception();
    PyObject *slow = Py_NewRef(hooks.slow);
    PyObject *answer = PyObject_CallFunction(slow, "OOddd", clock, figures, seconds(start), seconds(wall), seconds(cpu));
    Py_DECREF(slow);
    if (answer == NULL) {
        note_failure();
    }
    Py_XDECREF(answer);
    if (pending != NULL) {
        give_exception(pending);
    }
}

/* --- steps --------------------------------------------------------------------------------------------------------- */

static void
look(Clock *clock, Figures *figures, PyObject *coroutine, PyObject *running, PyObject *woken_by)
{
    figures->until_look = INT32_MAX;
    if (hooks.look == NULL) {
        Py_CLEAR(clock->stamped);
        return;
    }
    PyObject *hook = Py_NewRef(hooks.look);
    PyObject *answer = PyObject_CallFunctionObjArgs(hook, (PyObject *)figures, coroutine == NULL ? Py_None : coroutine,
                                                    running, woken_by == NULL ? Py_None : woken_by, NULL);
    Py_DECREF(hook);
    long steps = answer == NULL ? -1 : PyLong_AsLong(answer);
    Py_XDECREF(answer);
    if (steps < 0) {
        if (PyErr_Occurred()) {
            note_failure();
        }
        return;
    }
    figures->until_look = steps > INT32_MAX ? INT32_MAX : (int32_t)steps;
}

/* `coroutine`, `woken_by` (a future): borrowed, NULL where there is none. `running`: what `Clock.handle` tells. */
void
begin_step(Entry *entry, Clock *clock, Figures *figures, PyObject *coroutine, PyObject *running, PyObject *woken_by)
{
    entry->clock = NULL;
    entry->task = NULL;
    entry->pure = false;
    if (UNLIKELY(clock->depth >= DEPTH)) {
        return;
    }
    Py_INCREF((PyObject *)clock);
    Py_INCREF((PyObject *)figures);
    if (UNLIKELY(figures->until_look <= 0 || running == clock->stamped)) {
        look(clock, figures, coroutine, running, woken_by);
        if (!measuring || clock->depth >= DEPTH) {
            Py_DECREF((PyObject *)figures);
            Py_DECREF((PyObject *)clock);
            return;
        }
    }
    figures->until_look--;
    nanoseconds now = wall_clock();
    int depth = clock->depth;
    if (UNLIKELY(depth > 0)) {
        add_piece(clock, &clock->step[depth - 1], now);
    }
    else {
        if (now - clock->end > GAP_NS) {
            clock->cpu_base = cpu_clock();
            clock->wall_base = now;
        }
        clock->piece = now;
    }
    Step *step = &clock->step[depth];
    step->figures = figures;
    step->running = Py_NewRef(running);
    step->start = now;
    step->nested = step->cpu = step->unbilled = 0;
    step->serial = ++clock->serial;
    clock->depth = depth + 1;
    entry->clock = clock;
    entry->index = depth;
    entry->serial = step->serial;
}

/* The task's first step. */
void
count_begin(Entry *entry)
{
    entry->clock->alive++;
    entry->clock->step[entry->index].figures->started++;
}

static void
count_end(Clock *clock, Figures *figures, int outcome)
{
    if (outcome == PENDING) {
        return;
    }
    clock->alive--;
    if (outcome == COMPLETED) {
        figures->completed++;
    }
    else if (outcome == FAILED) {
        figures->failed++;
    }
    else {
        figures->cancelled++;
    }
}

static void
note_cost(Clock *clock, Figures *figures, nanoseconds cpu)
{
    if (figures->cost == NULL && (figures->cost = PyMem_Malloc(COSTS * sizeof(Cost))) == NULL) {
        return;
    }
    if (figures->costs < COSTS) {
        figures->cost[figures->costs++] = (Cost){clock->alive, cpu};
    }
}

static void
drop_steps(Clock *clock, int depth)
{
    while (clock->depth > depth) {
        Step *step = &clock->step[--clock->depth];
        PyObject *running = step->running;
        Figures *figures = step->figures;
        step->running = NULL;
        step->figures = NULL;
        step->serial = 0;
        Py_XDECREF(running);
        Py_XDECREF((PyObject *)figures);
    }
}

void
end_step(Entry *entry, PyObject *context)
{
    Clock *clock = entry->clock;
    int index = entry->index;
    Step *step = &clock->step[index];
    if (UNLIKELY(index >= clock->depth || step->serial != entry->serial)) {
        Py_DECREF((PyObject *)clock); /* a greenlet ended the steps around it first */
        return;
    }
    if (UNLIKELY(clock->depth > index + 1)) {
        drop_steps(clock, index + 1);
    }
    nanoseconds now = wall_clock();
    add_piece(clock, step, now);
    Figures *figures = step->figures;
    PyObject *running = step->running;
    nanoseconds start = step->start, cpu = step->cpu, unbilled = step->unbilled;
    nanoseconds wall = now - start - step->nested;
    step->figures = NULL;
    step->running = NULL;
    step->serial = 0;
    clock->depth = index;
    if (UNLIKELY(index > 0)) {
        clock->step[index - 1].nested += now - start;
    }
    else {
        clock->end = now;
    }
    figures->steps++;
    figures->wall += wall;
    figures->cpu += cpu;
    if (UNLIKELY(wall > LONG_NS)) {
        note_cost(clock, figures, cpu);
        if (wall > figures->longest) {
            figures->longest = wall;
        }
    }
    if (entry->task != NULL) {
        count_end(clock, figures, outcome_of(entry->task, entry->pure));
    }
    pay(clock, figures, unbilled, context);
    if (UNLIKELY(wall >= slow_ns)) {
        report_slow(clock, figures, start, wall, cpu);
    }
    Py_DECREF(running);
    Py_DECREF((PyObject *)figures);
    Py_DECREF((PyObject *)clock);
}

void
abandon_step(Entry *entry)
{
    Clock *clock = entry->clock;
    if (entry->index < clock->depth && clock->step[entry->index].serial == entry->serial) {
        drop_steps(clock, entry->index);
    }
    Py_DECREF((PyObject *)clock);
}

nanoseconds
settle_step(Clock *clock)
{
    nanoseconds now = wall_clock();
    if (clock == NULL || !is_valid(clock) || clock->depth == 0) {
        return now;
    }
    Step *step = &clock->step[clock->depth - 1];
    add_piece(clock, step, now);
    nanoseconds unbilled = step->unbilled;
    Figures *figures = (Figures *)Py_NewRef((PyObject *)step->figures);
    step->unbilled = 0;
    pay(clock, figures, unbilled, NULL);
    Py_DECREF((PyObject *)figures);
    return now;
}

/* --- the type ------------------------------------------------------------------------------------------------------ */

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

/* Another loop runs inside of the running step, on this thread and with a clock of its own. */
static PyObject *
clock_pause(Clock *clock, PyObject *Py_UNUSED(none))
{
    if (clock->depth > 0) {
        add_piece(clock, &clock->step[clock->depth - 1], wall_clock());
    }
    Py_RETURN_NONE;
}

static PyObject *
clock_resume(Clock *clock, PyObject *Py_UNUSED(none))
{
    nanoseconds now = wall_clock();
    if (clock->depth > 0) {
        clock->step[clock->depth - 1].nested += now - clock->piece;
    }
    clock->piece = clock->end = clock->wall_base = now;
    clock->cpu_base = cpu_clock();
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
