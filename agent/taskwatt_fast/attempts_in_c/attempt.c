/* An attempt until its body has ended, as methods of the recorder. Each is what the method of that name in
 * taskwatt_celery.attempt does for a plain attempt; of any other it changes nothing and calls that method. */
#include "attempts.h"

#include <math.h>

static PyObject *
in_python(PyObject *function, PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    PyObject *all[5] = {self};
    if (count > 4) {
        PyErr_SetString(PyExc_TypeError, "too many arguments");
        return NULL;
    }
    for (Py_ssize_t at = 0; at < count; at++) {
        all[at + 1] = arguments[at];
    }
    return PyObject_Vectorcall(function, all, (size_t)count + 1, NULL);
}

static bool
is_uuid_shaped(PyObject *id)
{
    return PyUnicode_CheckExact(id) && PyUnicode_IS_COMPACT_ASCII(id) && PyUnicode_GET_LENGTH(id) == TASK_ID_SIZE;
}

static void
put_bool(PyObject *object, int which, bool value)
{
    put(object, which, Py_NewRef(value ? Py_True : Py_False));
}

static bool
put_int(PyObject *object, int which, long long value)
{
    PyObject *number = PyLong_FromLongLong(value);
    if (number == NULL) {
        return false;
    }
    put(object, which, number);
    return true;
}

/* Does what the process used since the last attempt belong to this one, so that no clock is read? */
static int
follows_at_once(PyObject *self, double clock)
{
    double exit;
    if (SLOT(self, Recorder__thread_at_exit) != Py_None || SLOT(self, Recorder__serves) != Py_False) {
        return ASIDE;
    }
    if (!number_in(self, Recorder__exit, &exit)) {
        return FAILED;
    }
    return clock - exit > numbers.waited_s ? ASIDE : TAKEN;
}

static PyObject *
new_run(PyObject *self, PyObject *task, PyObject *request, double clock)
{
    PyTypeObject *type = (PyTypeObject *)parts.Running;
    PyObject *run = type->tp_new(type, no_arguments, NULL);
    PyObject *zero = PyFloat_FromDouble(0.0);
    if (run == NULL || zero == NULL || !put_number(run, Running_start, clock)) {
        Py_XDECREF(run);
        Py_XDECREF(zero);
        return NULL;
    }
    put(run, Running_task_name, Py_NewRef(task));
    put(run, Running_message, Py_NewRef(request));
    put(run, Running_attempt_no, Py_NewRef(SLOT(self, Recorder__number)));
    static const int no[] = {Running_body, Running_finished_body, Running_expected};
    static const int zeros[] = {Running_body_cpu, Running_hook_s, Running_sampling_s, Running_gap};
    static const int nones[] = {Running_error, Running_sampler, Running_others};
    for (size_t at = 0; at < Py_ARRAY_LENGTH(no); at++) {
        put_bool(run, no[at], false);
    }
    for (size_t at = 0; at < Py_ARRAY_LENGTH(zeros); at++) {
        put(run, zeros[at], Py_NewRef(zero));
    }
    for (size_t at = 0; at < Py_ARRAY_LENGTH(nones); at++) {
        put(run, nones[at], Py_NewRef(Py_None));
    }
    Py_DECREF(zero);
    put(run, Running_cpu, Py_NewRef(SLOT(self, Recorder__cpu_at_exit)));
    switch (follows_at_once(self, clock)) {
    case FAILED:
        Py_CLEAR(run);
        break;
    case ASIDE: {
        PyObject *done = PyObject_CallMethod(self, "_begin_apart", "O", run);
        if (done == NULL) {
            Py_CLEAR(run);
        }
        Py_XDECREF(done);
    }
    }
    return run;
}

static bool
copy_ids(PyObject *ids, uint8_t *trace_id, uint8_t *span_id)
{
    if (ids == NULL || !PyTuple_Check(ids) || PyTuple_GET_SIZE(ids) != 2 || !PyBytes_Check(PyTuple_GET_ITEM(ids, 0))
        || PyBytes_GET_SIZE(PyTuple_GET_ITEM(ids, 0)) != 16 || !PyBytes_Check(PyTuple_GET_ITEM(ids, 1))
        || PyBytes_GET_SIZE(PyTuple_GET_ITEM(ids, 1)) != 8) {
        PyErr_SetString(PyExc_TypeError, "ids of a scope are two of 16 and 8 bytes");
        return false;
    }
    memcpy(trace_id, PyBytes_AS_STRING(PyTuple_GET_ITEM(ids, 0)), 16);
    memcpy(span_id, PyBytes_AS_STRING(PyTuple_GET_ITEM(ids, 1)), 8);
    return true;
}

static bool
copy_scope(PyObject *scope, Begun *begun)
{
    if (!PyObject_TypeCheck(scope, (PyTypeObject *)parts.Scope)) {
        PyErr_SetString(PyExc_TypeError, "no scope");
        return false;
    }
    PyObject *parent = SLOT(scope, Scope_parent_id);
    if (!copy_ids(SLOT(scope, Scope_context_ids), begun->trace_id, begun->span_id)
        || !copy_ids(SLOT(scope, Scope_link_ids), begun->link_trace_id, begun->link_span_id)) {
        return false;
    }
    if (parent == NULL || !PyBytes_Check(parent) || PyBytes_GET_SIZE(parent) != 8) {
        PyErr_SetString(PyExc_TypeError, "a parent's id has 8 bytes");
        return false;
    }
    memcpy(begun->parent_span_id, PyBytes_AS_STRING(parent), 8);
    return true;
}

/* The first half of the record, noted in the attempt and as in flight. */
static bool
note_run(PyObject *self, PyObject *run, Begun *begun, int64_t now_ns, uint64_t *asked_until)
{
    PyObject *segment = SLOT(self, Recorder_segment), *nothing_yet = SLOT(self, Recorder__nothing_yet);
    double cpu, children_s;
    Py_buffer memory;
    begun->start_ns = now_ns;
    if (nothing_yet == NULL || !PyBytes_Check(nothing_yet) || PyBytes_GET_SIZE(nothing_yet) != sizeof(Ended)) {
        PyErr_SetString(PyExc_TypeError, "no second half of a record");
        return false;
    }
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)begun, sizeof(Begun));
    if (bytes == NULL) {
        return false;
    }
    put(run, Running_begun, bytes);
    if (!number_in(run, Running_cpu, &cpu) || !number_in(self, Recorder__children_s, &children_s)
        || !open_segment(segment, &memory)) {
        return false;
    }
    note_begun(&memory, begun, PyBytes_AS_STRING(nothing_yet), begun->attempt_no, cpu, children_s);
    *asked_until = asked_for_code_until(&memory);
    PyBuffer_Release(&memory);
    return true;
}

static bool
describe(PyObject *self, PyObject *run, PyObject *task, PyObject *task_id, PyObject *request, const Message *message,
         int64_t now_ns, Begun *begun)
{
    static PyObject *no_queue;
    if (no_queue == NULL && (no_queue = PyUnicode_InternFromString("")) == NULL) {
        return false;
    }
    begun->queue_wait = (double)now_ns / 1e9 - message->published;
    if (isnan(message->published)) {
        begun->queue_wait = NAN;
    }
    put_bool(run, Running_redelivered, message->redelivered);
    if (!put_int(run, Running_depth, 0) || !put_number(run, Running_wait, begun->queue_wait)
        || !put_int(run, Running_size, message->size)) {
        return false;
    }
    PyObject *scope = enter_scope(task, request, message, now_ns, SLOT(self, Recorder__sample));
    if (scope == NULL) {
        return false;
    }
    put(run, Running_scope, scope);
    int sampled = copy_scope(scope, begun) && SLOT(scope, Scope_sampled) != NULL ? PyObject_IsTrue(SLOT(scope, Scope_sampled)) : -1;
    if (sampled < 0) {
        return false;
    }
    begun->flags = (uint8_t)((sampled ? SAMPLED : 0) | (message->redelivered ? REDELIVERED : 0));
    PyObject *segment = SLOT(self, Recorder_segment);
    uint16_t index, queue;
    if (!put_int(run, Running_flags, begun->flags) || index_of(segment, task, &index) == FAILED
        || !put_int(run, Running_task, index)
        || index_of(segment, message->queue == NULL ? no_queue : message->queue, &queue) == FAILED) {
        return false;
    }
    begun->kind = ATTEMPT;
    begun->task = index;
    begun->queue = queue;
    memcpy(begun->task_id, PyUnicode_1BYTE_DATA(task_id), TASK_ID_SIZE);
    begun->body_size = (uint64_t)message->size;
    begun->retries = message->retries;
    begun->nesting = (uint16_t)message->nesting;
    begun->publisher = NO_STRING;
    begun->attempt_no = PyLong_AsUnsignedLongLong(SLOT(self, Recorder__number));
    return begun->attempt_no != (uint64_t)-1 || !PyErr_Occurred();
}

static PyObject *
begin_plain(PyObject *self, PyObject *const *arguments, const Message *message)
{
    double clock = wall_clock();
    long long number = PyLong_AsLongLong(SLOT(self, Recorder__number));
    if ((number == -1 && PyErr_Occurred()) || !put_int(self, Recorder__number, ++number)) {
        return NULL;
    }
    bool measured = number % numbers.hook_every == 2;
    double entered = measured ? thread_clock() : 0.0;
    int64_t now_ns = wall_ns();
    PyObject *task = arguments[0], *request = arguments[2];
    PyObject *run = new_run(self, task, request, clock);
    if (run == NULL) {
        return NULL;
    }
    Begun begun = {0};
    uint64_t asked_until;
    if (!describe(self, run, task, arguments[1], request, message, now_ns, &begun)
        || !note_run(self, run, &begun, now_ns, &asked_until)) {
        goto failed;
    }
    if (asked_until > (uint64_t)now_ns) {
        PyObject *done = PyObject_CallMethod(self, "_sample_code", "OK", run, (unsigned long long)asked_until);
        if (done == NULL) {
            goto failed;
        }
        Py_DECREF(done);
    }
    put(self, Recorder_running, Py_NewRef(run));
    if (measured && SLOT(run, Running_sampler) == Py_None
        && !put_number(run, Running_hook_s, thread_clock() - entered)) {
        goto failed;
    }
    return run;
failed:
    Py_DECREF(run);
    return NULL;
}

PyObject *
begin(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 4 || !PyUnicode_CheckExact(arguments[0]) || !is_uuid_shaped(arguments[1])) {
        return in_python(parts.begin, self, arguments, count);
    }
    Message message;
    PyObject *run = NULL;
    switch (read_message(arguments[2], arguments[3], &message)) {
    case TAKEN:
        run = begin_plain(self, arguments, &message);
        break;
    case ASIDE:
        run = in_python(parts.begin, self, arguments, count);
    }
    forget_message(&message);
    return run;
}

/* Process CPU net of what is booked to other activities. */
static bool
read_body_clock(double *cpu, double *own)
{
    double serialization, collected, publish;
    *cpu = process_clock();
    if (!read_meter(&serialization, &collected, &publish)) {
        return false;
    }
    *own = *cpu - (serialization + collected + publish);
    return true;
}

PyObject *
enter_body(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    PyObject *run = SLOT(self, Recorder_running);
    if (count != 0 || !is_run(run) || SLOT(run, Running_others) != Py_None || is_official()) {
        return in_python(parts.enter_body, self, arguments, count);
    }
    if (SLOT(run, Running_body) != Py_False) {
        Py_RETURN_NONE;
    }
    double cpu, own;
    Py_buffer memory;
    Py_INCREF(run);
    put_bool(run, Running_body, true);
    uint64_t number = PyLong_AsUnsignedLongLong(SLOT(run, Running_attempt_no));
    if ((number == (uint64_t)-1 && PyErr_Occurred()) || !read_body_clock(&cpu, &own)
        || !put_number(run, Running_body_cpu, own) || !open_segment(SLOT(self, Recorder_segment), &memory)) {
        Py_DECREF(run);
        return NULL;
    }
    note_body(&memory, number, cpu);
    PyBuffer_Release(&memory);
    return run;
}

PyObject *
leave_body(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    PyObject *run = count == 2 ? arguments[0] : NULL;
    if (!is_run(run) || SLOT(run, Running_others) != Py_None || SLOT(run, Running_error) != Py_None || is_official()) {
        return in_python(parts.leave_body, self, arguments, count);
    }
    double cpu, own, entered;
    if (!read_body_clock(&cpu, &own) || !number_in(run, Running_body_cpu, &entered)
        || !put_number(run, Running_body_cpu, own - entered)) {
        return NULL;
    }
    put_bool(run, Running_finished_body, true);
    Py_RETURN_NONE;
}
