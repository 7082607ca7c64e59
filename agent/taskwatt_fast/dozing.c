/* How the watchdog sleeps while all loops wait. Twin of `_doze_in_python` in taskwatt_asyncio's dozing.py, which says
 * what it is for. Only the sleep itself gives the GIL away: descriptors are closed and lists changed by who holds it. */
#define _GNU_SOURCE
#include "carrier.h"

#include <string.h>
#include <unistd.h>

enum { LATE_NS = 1000000, MOST = 255 };

typedef struct {
    int descriptor; /* of the thread's wchan */
    clockid_t clock;
    nanoseconds cpu; /* when it was first met here */
} Resting;

/* Negative when the thread is gone. */
static nanoseconds
cpu_of(clockid_t clock)
{
    struct timespec now;
    return clock_gettime(clock, &now) < 0 ? -1 : (nanoseconds)now.tv_sec * 1000000000 + now.tv_nsec;
}

static bool
rests(const Resting *one)
{
    char text[MOST + 1];
    nanoseconds cpu = cpu_of(one->clock);
    if (cpu < 0 || cpu != one->cpu) {
        return false;
    }
    ssize_t length = pread(one->descriptor, text, MOST, 0);
    text[length < 0 ? 0 : length] = '\0';
    return strstr(text, "epoll") != NULL || strstr(text, "ep_poll") != NULL;
}

/* 1: the lock was released, 0: the time is up, -1: an exception is set. */
static int
wait_for_lock(PyObject *acquire, nanoseconds time)
{
    PyObject *timeout = PyFloat_FromDouble(seconds(time));
    if (timeout == NULL) {
        return -1;
    }
    PyObject *arguments[] = {Py_True, timeout};
    PyObject *answer = PyObject_Vectorcall(acquire, arguments, 2, NULL);
    Py_DECREF(timeout);
    if (answer == NULL) {
        return -1;
    }
    int acquired = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return acquired;
}

static bool
tell(PyObject *waited, nanoseconds now)
{
    PyObject *moment = PyFloat_FromDouble(seconds(now));
    PyObject *answer = moment == NULL ? NULL : PyObject_CallOneArg(waited, moment);
    Py_XDECREF(moment);
    Py_XDECREF(answer);
    return answer != NULL;
}

static PyObject *
sleep_beside(PyObject *acquire, nanoseconds longest, nanoseconds period, const Resting *resting, Py_ssize_t count,
             PyObject *waited)
{
    nanoseconds end = wall_clock() + longest;
    for (;;) {
        nanoseconds asked = wall_clock(), time = end - asked < period ? end - asked : period;
        int roused = wait_for_lock(acquire, time < 0 ? 0 : time);
        if (roused != 0) {
            return roused < 0 ? NULL : Py_NewRef(Py_None);
        }
        nanoseconds now = wall_clock(), late = now - asked - time;
        bool all = now < end && late < LATE_NS;
        for (Py_ssize_t index = 0; all && index < count; index++) {
            all = rests(&resting[index]);
        }
        if (!all) {
            return PyFloat_FromDouble(late < 0 ? 0.0 : seconds(late));
        }
        if (!tell(waited, now)) {
            return NULL;
        }
    }
}

static PyObject *
doze(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *acquire, *threads, *waited;
    double longest_s, period_s;
    if (!PyArg_ParseTuple(arguments, "OddO!O:doze", &acquire, &longest_s, &period_s, &PyTuple_Type, &threads,
                          &waited)) {
        return NULL;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(threads);
    Resting *resting = PyMem_New(Resting, count > 0 ? count : 1);
    if (resting == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *late = NULL;
    for (Py_ssize_t index = 0; index < count; index++) {
        int descriptor, clock;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(threads, index), "ii:doze", &descriptor, &clock)) {
            goto end;
        }
        resting[index] = (Resting){descriptor, clock, cpu_of(clock)};
    }
    late = sleep_beside(acquire, (nanoseconds)(longest_s * 1e9), (nanoseconds)(period_s * 1e9), resting, count, waited);
end:
    PyMem_Free(resting);
    return late;
}

static PyMethodDef functions[] = {
    {"doze", doze, METH_VARARGS,
     "(acquire, longest_s, period_s, ((descriptor of wchan, clock), ...), waited): seconds late, or None when roused."},
    {NULL, NULL, 0, NULL},
};

int
add_dozing(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
