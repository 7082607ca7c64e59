/* The end of an attempt whose result was stored and of which nothing else is worth telling: no exception, nothing set on
 * its span, no other thread, no sampler. Any other end is Python's (Recorder.end). */
#include "attempts.h"

#include <math.h>

/* Whose the CPU of an attempt is, with no other thread and no sampler in it: as Recorder._split. */
static void
divide(double left, double agent, double serialization, double collected, double business, double gap, Split *split)
{
    double framework = left - agent - serialization - collected - business;
    if (framework < 0.0 || business < 0.0) { /* two clocks, read one after the other */
        left = fmax(left, gap);
        left -= agent = fmin(agent, left);
        left -= serialization = fmin(serialization, left);
        left -= collected = fmin(collected, left);
        business = fmax(0.0, fmin(business, left));
        framework = left - business;
    }
    split->business = business;
    split->serialization = serialization;
    split->gc = collected;
    split->framework = framework;
    split->agent = agent;
}

static bool
split_run(PyObject *self, PyObject *run, double cpu, Split *split)
{
    double began, gap, hook_s, sampling_s, business, serialized, collected, serialization, gc;
    if (!number_in(run, Running_cpu, &began) || !number_in(run, Running_gap, &gap)
        || !number_in(self, Recorder__hook_s, &hook_s) || !number_in(run, Running_sampling_s, &sampling_s)
        || !number_in(run, Running_body_cpu, &business) || !read_meter(&serialized, &collected, NULL)
        || !number_in(self, Recorder__serialization, &serialization) || !number_in(self, Recorder__gc, &gc)) {
        return false;
    }
    divide(cpu - began + gap, hook_s + sampling_s, serialized - serialization, collected - gc, business, gap, split);
    return true;
}

static bool
is_plain_scope(PyObject *self, PyObject *scope)
{
    if (scope == NULL || !PyObject_TypeCheck(scope, (PyTypeObject *)parts.Scope)) {
        return false;
    }
    PyObject *recorded = SLOT(scope, Scope_recorded), *mode = SLOT(scope, Scope_mode);
    return mode != NULL && PyLong_CheckExact(mode) && PyLong_AsLong(mode) == OWN
        && SLOT(self, Recorder__span_mode) != NULL && PyLong_CheckExact(SLOT(self, Recorder__span_mode))
        && PyLong_AsLong(SLOT(self, Recorder__span_mode)) == OWN && recorded != NULL
        && (recorded == Py_None
            || (PyObject_TypeCheck(recorded, (PyTypeObject *)parts.RecordedSpan)
                && SLOT(recorded, RecordedSpan_kept) == Py_None));
}

/* Did the body return, the result get stored, and nothing else worth telling happen? */
static bool
ends_plainly(PyObject *self, PyObject *run, PyObject *result)
{
    if (!is_run(run) || SLOT(run, Running_error) != Py_None
        || SLOT(run, Running_finished_body) != Py_True || SLOT(run, Running_sampler) != Py_None
        || SLOT(run, Running_others) != Py_None || SLOT(self, Recorder__serves) != Py_False) {
        return false;
    }
    PyObject *failed = PyTuple_CheckExact(result) && PyTuple_GET_SIZE(result) > 1 ? PyTuple_GET_ITEM(result, 0) : NULL;
    PyObject *flags = SLOT(run, Running_flags), *begun = SLOT(run, Running_begun);
    return failed != NULL && PyLong_CheckExact(failed) && PyLong_AsLong(failed) == 0 && flags != NULL
        && PyLong_CheckExact(flags) && !(PyLong_AsLong(flags) & ID_SPILLED) && begun != NULL && PyBytes_Check(begun)
        && PyBytes_GET_SIZE(begun) == sizeof(Begun) && is_plain_scope(self, SLOT(run, Running_scope));
}

static bool
call(PyObject *self, const char *method, PyObject **result)
{
    *result = PyObject_CallMethod(self, method, NULL);
    return *result != NULL;
}

/* Of an attempt long enough for them: threads that Python does not know, children that were reaped. */
static bool
look_around(PyObject *self, double duration, double *cpu, double *subprocesses)
{
    PyObject *told;
    if (duration > numbers.threads_min_s) {
        if (!call(self, "_look_for_threads", &told)) {
            return false;
        }
        Py_DECREF(told);
    }
    *cpu = process_clock();
    bool threads = SLOT(self, Recorder__native_threads) != Py_False
        || PyDict_GET_SIZE(parts.active) + PyDict_GET_SIZE(parts.limbo) > 1;
    if (threads) {
        if (!put_number(self, Recorder__thread_at_exit, thread_clock())) {
            return false;
        }
    } else {
        put(self, Recorder__thread_at_exit, Py_NewRef(Py_None));
    }
    if (duration > numbers.subprocess_min_s) {
        if (!call(self, "_reaped", &told)) {
            return false;
        }
        *subprocesses = PyFloat_AsDouble(told);
        Py_DECREF(told);
        return *subprocesses != -1.0 || !PyErr_Occurred();
    }
    return true;
}

static bool
overflow(PyObject *self, PyObject *run, const Ended *ended, PyObject *cpu)
{
    const Split *split = &ended->cpu;
    PyObject *done = PyObject_CallMethod(self, "_overflow", "OiiO(dddddd)", run, ended->outcome, ended->state, cpu,
                                         split->business, split->serialization, split->gc, split->framework,
                                         split->agent, split->subprocesses);
    Py_XDECREF(done);
    return done != NULL;
}

static bool
note_end(PyObject *self, PyObject *run, const Ended *ended, PyObject *cpu)
{
    PyObject *segment = SLOT(self, Recorder_segment);
    Py_buffer memory;
    if (!open_segment(segment, &memory)) {
        return false;
    }
    int noted = note_ended(segment, &memory, PyBytes_AS_STRING(SLOT(run, Running_begun)), ended,
                           SLOT(run, Running_attempt_no), cpu);
    PyBuffer_Release(&memory);
    return noted == TAKEN || (noted == ASIDE && overflow(self, run, ended, cpu));
}

/* What is measured from here on is the next attempt's. */
static bool
start_afresh(PyObject *self, PyObject *cpu)
{
    double serialization, collected;
    put(self, Recorder__cpu_at_exit, Py_NewRef(cpu));
    return read_meter(&serialization, &collected, NULL) && put_number(self, Recorder__serialization, serialization)
        && put_number(self, Recorder__gc, collected);
}

static bool
finish(PyObject *self, PyObject *run, const Ended *usual, double clock, double hook_s)
{
    Ended ended = *usual;
    double entered = hook_s != 0.0 ? thread_clock() : 0.0, start, cpu;
    if (!number_in(run, Running_start, &start)) {
        return false;
    }
    ended.duration = clock - start;
    if (!look_around(self, ended.duration, &cpu, &ended.cpu.subprocesses) || !split_run(self, run, cpu, &ended.cpu)
        || !leave_scope(SLOT(run, Running_scope))) {
        return false;
    }
    ended.max_rss = PyLong_AsUnsignedLongLong(SLOT(self, Recorder__max_rss));
    if (ended.max_rss == (uint64_t)-1 && PyErr_Occurred()) {
        return false;
    }
    PyObject *at_exit = PyFloat_FromDouble(cpu);
    bool done = at_exit != NULL && note_end(self, run, &ended, at_exit) && start_afresh(self, at_exit);
    Py_XDECREF(at_exit);
    if (done && hook_s != 0.0) {
        PyObject *noted = PyObject_CallMethod(self, "_note_hook", "d", hook_s + thread_clock() - entered);
        done = noted != NULL;
        Py_XDECREF(noted);
    }
    return done;
}

PyObject *
end_plainly(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    double clock = wall_clock(), hook_s;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "an attempt and its result");
        return NULL;
    }
    PyObject *run = arguments[0];
    if (!ends_plainly(self, run, arguments[1])) {
        Py_RETURN_FALSE;
    }
    if (!number_in(run, Running_hook_s, &hook_s) || !put_number(self, Recorder__exit, clock)) {
        return NULL;
    }
    Py_INCREF(run);
    put(self, Recorder_running, Py_NewRef(Py_None));
    Ended usual = {.retry_delay = NAN, .outcome = numbers.useful, .state = numbers.success};
    bool done = finish(self, run, &usual, clock, hook_s);
    Py_DECREF(run);
    return done ? Py_NewRef(Py_True) : NULL;
}
