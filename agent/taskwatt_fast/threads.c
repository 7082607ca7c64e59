/* Which clock measures the thread that runs: attached to it once, or never; and what a fork makes of it. */
#include "carrier.h"

_Thread_local Clock *current_clock;
static _Thread_local uint64_t declined; /* the installation in which this thread was found to be, or became, none of ours */
static _Thread_local bool asking;

uint64_t installation;

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
