/* The light scope of an attempt: nobody else traces it, its message carries the usual headers or none, and the sampler
 * is one that decides by ids and flags. Any other is entered by Python (context.enter_attempt). */
#include "attempts.h"

static PyObject *
named(PyObject *namespace, const char *name) /* borrowed; NULL: there is none, or an error */
{
    PyObject *key = PyUnicode_InternFromString(name);
    if (key == NULL) {
        return NULL;
    }
    PyObject *value = PyDict_GetItemWithError(namespace, key);
    Py_DECREF(key);
    return value;
}

bool
is_official(void)
{
    return PyDict_GetItemWithError(parts.modules, parts.official) != NULL;
}

/* Are these the propagators that Python found to be the default? TAKEN or ASIDE. */
static int
are_default_propagators(void)
{
    PyObject *known = named(parts.tracing, "_plain_textmap"), *get = named(parts.propagate, "get_global_textmap");
    if (known == NULL || known == Py_None || get == NULL) {
        return PyErr_Occurred() ? FAILED : ASIDE;
    }
    PyObject *propagator = PyObject_CallNoArgs(get);
    if (propagator == NULL) {
        return FAILED;
    }
    Py_DECREF(propagator);
    return propagator == known ? TAKEN : ASIDE;
}

static int
is_light(const Message *message, PyObject *sample)
{
    if (numbers.provider_named || message->other_headers || parts.current_context == Py_None || is_official()
        || !PyObject_TypeCheck(sample, (PyTypeObject *)parts.Sample) || SLOT(sample, Sample_excluded) != Py_None
        || SLOT(sample, Sample_light) == NULL || SLOT(sample, Sample_light) == Py_None
        || named(parts.trace, "_TRACER_PROVIDER") != Py_None) {
        return PyErr_Occurred() ? FAILED : ASIDE;
    }
    return are_default_propagators();
}

static int
nibble(Py_UCS1 character)
{
    return character >= '0' && character <= '9' ? character - '0'
        : character >= 'a' && character <= 'f'  ? character - 'a' + 10
                                                : -1;
}

static bool
hexadecimal(const Py_UCS1 *text, int bytes, uint8_t *into)
{
    int any = 0;
    for (int at = 0; at < bytes; at++) {
        int high = nibble(text[2 * at]), low = nibble(text[2 * at + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        into[at] = (uint8_t)(high << 4 | low);
        any |= into[at];
    }
    return any != 0 || bytes == 1; /* ids are not zero */
}

int
parse_traceparent(PyObject *value, uint8_t ids[24], int *flags)
{
    if (!PyUnicode_IS_COMPACT_ASCII(value) || PyUnicode_GET_LENGTH(value) != 55) {
        return ASIDE;
    }
    const Py_UCS1 *text = PyUnicode_1BYTE_DATA(value);
    uint8_t version, bits;
    if (text[2] != '-' || text[35] != '-' || text[52] != '-' || !hexadecimal(text, 1, &version) || version == 0xFF
        || !hexadecimal(text + 3, 16, ids) || !hexadecimal(text + 36, 8, ids + 16)
        || !hexadecimal(text + 53, 1, &bits)) {
        return ASIDE;
    }
    *flags = bits;
    return TAKEN;
}

/* 64 bits of Python's own generator, whose seed may be the user's, lowest first as its 128 would be. */
static bool
random_bits(uint64_t *bits)
{
    static PyObject *width;
    if (width == NULL && (width = PyLong_FromLong(64)) == NULL) {
        return false;
    }
    PyObject *number = PyObject_CallOneArg(parts.getrandbits, width);
    if (number == NULL) {
        return false;
    }
    *bits = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    return *bits != (uint64_t)-1 || !PyErr_Occurred();
}

static void
big_endian(uint64_t value, uint8_t *into)
{
    uint64_t swapped = __builtin_bswap64(value);
    memcpy(into, &swapped, 8);
}

static bool
new_trace_id(uint8_t *id)
{
    uint64_t low, high;
    if (!random_bits(&low) || !random_bits(&high)) {
        return false;
    }
    big_endian(high, id);
    big_endian(low == 0 && high == 0 ? 1 : low, id + 8);
    return true;
}

static bool
new_span_id(uint8_t *id)
{
    uint64_t bits;
    if (!random_bits(&bits)) {
        return false;
    }
    big_endian(bits == 0 ? 1 : bits, id);
    return true;
}

static PyObject *
pair_of_ids(const uint8_t *trace_id, const uint8_t *span_id)
{
    return Py_BuildValue("(y#y#)", (const char *)trace_id, (Py_ssize_t)16, (const char *)span_id, (Py_ssize_t)8);
}

/* `flags` -1: a root. */
static PyObject *
decided(PyObject *light, int flags, PyObject *ids)
{
    if (light == parts.follow_parent) {
        return Py_NewRef(flags < 0 || flags & 1 ? Py_True : Py_False);
    }
    PyObject *parent = flags < 0 ? Py_NewRef(Py_None) : PyLong_FromLong(flags);
    if (parent == NULL) {
        return NULL;
    }
    PyObject *arguments[] = {parent, PyTuple_GET_ITEM(ids, 0)};
    PyObject *sampled = PyObject_Vectorcall(light, arguments, 2, NULL);
    Py_DECREF(parent);
    return sampled;
}

static PyObject *
instance(PyObject *type)
{
    return ((PyTypeObject *)type)->tp_new((PyTypeObject *)type, no_arguments, NULL);
}

/* The span that an attempt with these ids has; `recorded` is it, or None where it records nothing. */
static PyObject *
light_span(bool sampled, PyObject *ids, PyObject **recorded)
{
    PyObject *span = instance(sampled ? parts.RecordedSpan : parts.UnsampledSpan);
    if (span == NULL) {
        return NULL;
    }
    if (sampled) {
        put(span, RecordedSpan__context, Py_NewRef(ids));
        put(span, RecordedSpan_kept, Py_NewRef(Py_None));
    } else {
        put(span, UnsampledSpan__ids, Py_NewRef(ids));
    }
    *recorded = Py_NewRef(sampled ? span : Py_None);
    return span;
}

static bool
make_current(PyObject *scope, PyObject *span)
{
    PyObject *context = instance(parts.Context);
    if (context == NULL || PyDict_SetItem(context, parts.span_key, span) < 0) {
        Py_XDECREF(context);
        return false;
    }
    PyObject *token = PyContextVar_Set(parts.current_context, context);
    Py_DECREF(context);
    if (token == NULL) {
        return false;
    }
    put(scope, Scope__token, token);
    return true;
}

static PyObject *
empty_scope(void)
{
    PyObject *scope = instance(parts.Scope), *mode = PyLong_FromLong(OWN);
    if (scope == NULL || mode == NULL) {
        Py_XDECREF(scope);
        Py_XDECREF(mode);
        return NULL;
    }
    put(scope, Scope_mode, mode);
    put(scope, Scope_context_ids, Py_NewRef(parts.no_ids));
    put(scope, Scope_link_ids, Py_NewRef(parts.no_ids));
    put(scope, Scope_parent_id, Py_NewRef(PyTuple_GET_ITEM(parts.no_ids, 1)));
    put(scope, Scope_sampled, Py_NewRef(Py_False));
    put(scope, Scope_span, Py_NewRef(Py_None));
    put(scope, Scope_recorded, Py_NewRef(Py_None));
    put(scope, Scope__token, Py_NewRef(Py_None));
    put(scope, Scope__cover, Py_NewRef(Py_None));
    return scope;
}

/* Trace id, own span id and that of the parent; `flags` -1: a root. */
static bool
fill_scope(PyObject *scope, PyObject *sample, const uint8_t *trace_id, const uint8_t *parent_id, int flags)
{
    uint8_t span_id[8];
    PyObject *recorded, *span = NULL, *ids = NULL, *sampled = NULL;
    if (parent_id != NULL) {
        PyObject *parent = PyBytes_FromStringAndSize((const char *)parent_id, 8);
        if (parent == NULL) {
            return false;
        }
        put(scope, Scope_parent_id, parent);
    }
    if (!new_span_id(span_id) || (ids = pair_of_ids(trace_id, span_id)) == NULL) {
        return false;
    }
    put(scope, Scope_context_ids, ids); /* which owns it from here on */
    sampled = decided(SLOT(sample, Sample_light), flags, ids);
    int records = sampled == NULL ? -1 : PyObject_IsTrue(sampled);
    if (records < 0) {
        Py_XDECREF(sampled);
        return false;
    }
    put(scope, Scope_sampled, sampled);
    if ((span = light_span(records == 1, ids, &recorded)) == NULL) {
        return false;
    }
    put(scope, Scope_span, span);
    put(scope, Scope_recorded, recorded);
    return make_current(scope, span);
}

static PyObject *
enter_light(const Message *message, PyObject *sample)
{
    uint8_t parent[24], link[24], trace_id[16];
    int flags = -1, ignored;
    if (message->traceparent != NULL && parse_traceparent(message->traceparent, parent, &flags) != TAKEN) {
        return NULL;
    }
    bool retried = message->previous != NULL && PyUnicode_GET_LENGTH(message->previous) > 0;
    if (retried && parse_traceparent(message->previous, link, &ignored) != TAKEN) {
        return NULL;
    }
    PyObject *scope = empty_scope();
    if (scope == NULL) {
        return NULL;
    }
    if (retried) {
        PyObject *ids = pair_of_ids(link, link + 16);
        if (ids == NULL) {
            Py_DECREF(scope);
            return NULL;
        }
        put(scope, Scope_link_ids, ids);
    }
    bool root = message->traceparent == NULL;
    if ((root && !new_trace_id(trace_id))
        || !fill_scope(scope, sample, root ? trace_id : parent, root ? NULL : parent + 16, flags)) {
        Py_DECREF(scope);
        return NULL;
    }
    return scope;
}

PyObject *
enter_scope(PyObject *task, PyObject *request, const Message *message, int64_t now_ns, PyObject *sample)
{
    int light = is_light(message, sample);
    if (light == FAILED) {
        return NULL;
    }
    if (light == TAKEN) {
        PyObject *scope = enter_light(message, sample);
        if (scope != NULL || PyErr_Occurred()) {
            return scope;
        }
    }
    PyObject *now = PyLong_FromLongLong(now_ns);
    if (now == NULL) {
        return NULL;
    }
    PyObject *previous = message->previous == NULL ? Py_None : message->previous;
    PyObject *arguments[] = {task, request, previous, now, sample};
    PyObject *scope = PyObject_Vectorcall(parts.enter_attempt, arguments, 5, NULL);
    Py_DECREF(now);
    return scope;
}

bool
leave_scope(PyObject *scope)
{
    PyObject *token = SLOT(scope, Scope__token);
    if (token == NULL || token == Py_None) {
        return true;
    }
    SLOT(scope, Scope__token) = Py_NewRef(Py_None);
    PyObject *done = NULL;
    if (parts.current_context != Py_None && PyContextToken_CheckExact(token)) {
        if (PyContextVar_Reset(parts.current_context, token) == 0) {
            Py_DECREF(token);
            return true;
        }
        PyErr_Clear();
    }
    done = PyObject_CallOneArg(parts.detach, token); /* says what is wrong with it, as it does for Python */
    Py_DECREF(token);
    Py_XDECREF(done);
    return done != NULL;
}
