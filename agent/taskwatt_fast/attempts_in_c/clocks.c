/* The readings that an attempt's CPU is split by: the clocks of `time`, as it reads them, and the meter. */
#include "attempts.h"

static int64_t
reading(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t
wall_ns(void)
{
    return reading(CLOCK_REALTIME);
}

double
wall_clock(void) /* time.perf_counter */
{
    return (double)reading(CLOCK_MONOTONIC) / 1e9;
}

double
process_clock(void)
{
    return (double)reading(CLOCK_PROCESS_CPUTIME_ID) / 1e9;
}

double
thread_clock(void)
{
    return (double)reading(CLOCK_THREAD_CPUTIME_ID) / 1e9;
}

bool
read_meter(double *serialization, double *collected, double *publish)
{
    if (!number_in(parts.meter, Meter_serialization, serialization)
        || (publish != NULL && !number_in(parts.meter, Meter_publish, publish))) {
        return false;
    }
    PyObject *sum = PySequence_GetItem(SLOT(parts.meter, Meter_collected), 0);
    if (sum == NULL) {
        return false;
    }
    *collected = PyFloat_AsDouble(sum);
    Py_DECREF(sum);
    return *collected != -1.0 || !PyErr_Occurred();
}
