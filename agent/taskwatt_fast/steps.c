/* The adaptive clock at work: a step is begun, cut into pieces, ended and billed. */
#include "carrier.h"

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

/* --- who pays ------------------------------------------------------------------------------------------------------ */

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

void
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

/* Another loop runs inside of the running step, on this thread and with a clock of its own. */
void
pause_steps(Clock *clock)
{
    if (clock->depth > 0) {
        add_piece(clock, &clock->step[clock->depth - 1], wall_clock());
    }
}

void
resume_steps(Clock *clock)
{
    nanoseconds now = wall_clock();
    if (clock->depth > 0) {
        clock->step[clock->depth - 1].nested += now - clock->piece;
    }
    clock->piece = clock->end = clock->wall_base = now;
    clock->cpu_base = cpu_clock();
}
