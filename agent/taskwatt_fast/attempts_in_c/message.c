/* What an attempt needs of its request: the usual types only, anything else is left to Python. */
#include "attempts.h"

#include <math.h>

#define HEADERS(X)                                                                                                    \
    X(delivery_info) X(routing_key) X(redelivered) X(retries) X(replaced_task_nesting) X(eta) X(taskwatt_depth)       \
    X(taskwatt_published) X(taskwatt_previous) X(traceparent) X(tracestate) X(baggage)

#define HEADER_FIELD(name) PyObject *name;
static struct {
    HEADERS(HEADER_FIELD)
} header;
#undef HEADER_FIELD

bool
name_headers(void)
{
#define HEADER_NAME(name)                                                                                             \
    if (header.name == NULL && (header.name = PyUnicode_InternFromString(#name)) == NULL) {                           \
        return false;                                                                                                 \
    }
    HEADERS(HEADER_NAME)
#undef HEADER_NAME
    return true;
}

/* TAKEN: `value` is borrowed, NULL where there is none, or None. */
static int
look_up(PyObject *from, PyObject *name, PyObject **value)
{
    *value = PyDict_GetItemWithError(from, name);
    if (*value == NULL) {
        return PyErr_Occurred() ? FAILED : TAKEN;
    }
    if (*value == Py_None) {
        *value = NULL;
    }
    return TAKEN;
}

static int
count_in(PyObject *request, PyObject *name, uint32_t most, uint32_t *count)
{
    PyObject *value;
    *count = 0;
    if (look_up(request, name, &value) == FAILED) {
        return FAILED;
    }
    if (value == NULL) {
        return TAKEN;
    }
    if (!PyLong_CheckExact(value)) {
        return ASIDE;
    }
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow > 0 || number > (long long)most) {
        *count = most;
    } else if (overflow == 0 && number > 0) {
        *count = (uint32_t)number;
    }
    return TAKEN;
}

/* A plain text, owned; NULL where there is none. */
static int
text_in(PyObject *from, PyObject *name, PyObject **text)
{
    PyObject *value;
    *text = NULL;
    if (look_up(from, name, &value) == FAILED) {
        return FAILED;
    }
    if (value == NULL) {
        return TAKEN;
    }
    if (!PyUnicode_CheckExact(value)) {
        return ASIDE;
    }
    *text = Py_NewRef(value);
    return TAKEN;
}

static int
read_delivery(PyObject *request, Message *message)
{
    PyObject *info, *redelivered;
    if (look_up(request, header.delivery_info, &info) == FAILED) {
        return FAILED;
    }
    if (info == NULL) {
        return TAKEN;
    }
    if (!PyDict_CheckExact(info)) {
        return ASIDE;
    }
    Py_INCREF(info);
    int done = text_in(info, header.routing_key, &message->queue);
    if (done == TAKEN) {
        done = look_up(info, header.redelivered, &redelivered);
        if (done == TAKEN && redelivered != NULL) {
            message->redelivered = redelivered == Py_True;
            done = PyBool_Check(redelivered) ? TAKEN : ASIDE;
        }
    }
    Py_DECREF(info);
    return done;
}

static int
read_published(PyObject *request, Message *message)
{
    PyObject *published;
    if (look_up(request, header.taskwatt_published, &published) == FAILED) {
        return FAILED;
    }
    if (published != NULL && !PyFloat_CheckExact(published)) {
        return ASIDE;
    }
    message->published = published == NULL ? NAN : PyFloat_AS_DOUBLE(published);
    return TAKEN;
}

static int
read_others(PyObject *request, Message *message)
{
    PyObject *eta;
    uint32_t depth;
    int done = look_up(request, header.eta, &eta);
    if (done != TAKEN || eta != NULL) {
        return done == TAKEN ? ASIDE : done;
    }
    done = count_in(request, header.taskwatt_depth, UINT32_MAX, &depth);
    if (done != TAKEN || depth != 0) {
        return done == TAKEN ? ASIDE : done;
    }
    int baggage = PyDict_Contains(request, header.baggage), state = PyDict_Contains(request, header.tracestate);
    message->other_headers = baggage == 1 || state == 1;
    return baggage < 0 || state < 0 ? FAILED : TAKEN;
}

static int
measure_body(PyObject *body, Message *message)
{
    if (PyUnicode_CheckExact(body)) {
        message->size = PyUnicode_GET_LENGTH(body);
    } else if (PyBytes_CheckExact(body)) {
        message->size = PyBytes_GET_SIZE(body);
    } else if (PyUnicode_Check(body) || PyBytes_Check(body)) {
        return ASIDE;
    }
    return TAKEN;
}

int
read_message(PyObject *request, PyObject *body, Message *message)
{
    *message = (Message){.published = NAN};
    if (!PyDict_CheckExact(request)) {
        return ASIDE;
    }
    int done = measure_body(body, message);
    if (done == TAKEN) {
        done = read_delivery(request, message);
    }
    if (done == TAKEN) {
        done = read_published(request, message);
    }
    if (done == TAKEN) {
        done = count_in(request, header.retries, UINT32_MAX, &message->retries);
    }
    if (done == TAKEN) {
        done = count_in(request, header.replaced_task_nesting, UINT16_MAX, &message->nesting);
    }
    if (done == TAKEN) {
        done = text_in(request, header.taskwatt_previous, &message->previous);
    }
    if (done == TAKEN) {
        done = text_in(request, header.traceparent, &message->traceparent);
    }
    return done == TAKEN ? read_others(request, message) : done;
}

void
forget_message(Message *message)
{
    Py_CLEAR(message->queue);
    Py_CLEAR(message->traceparent);
    Py_CLEAR(message->previous);
}
