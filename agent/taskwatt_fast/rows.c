/* The rows of the ledger, by name: what their closed accounts came to, by outcome. Their number is bounded: names that
 * are too many share one. What an open account has paid it keeps to itself until it is closed. */
#include "accounts.h"

/* One name's totals of what is closed, by outcome. */
typedef struct {
    PyObject_HEAD
    Total *total;
    Py_ssize_t totals;
} Row;

static PyObject *rows; /* by name: those that a row ever had */
static PyObject *other;

static void
row_dealloc(Row *row)
{
    for (Py_ssize_t index = 0; index < row->totals; index++) {
        Py_DECREF(row->total[index].outcome);
    }
    PyMem_Free(row->total);
    PyObject_Free(row);
}

static PyTypeObject RowType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "taskwatt_fast.Row",
    .tp_basicsize = sizeof(Row),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)row_dealloc,
};

/* Borrowed; NULL with an exception. */
static Row *
row_of(PyObject *name)
{
    PyObject *row = PyDict_GetItemWithError(rows, name);
    if (row != NULL || PyErr_Occurred()) {
        return (Row *)row;
    }
    Row *made = PyObject_New(Row, &RowType);
    if (made == NULL) {
        return NULL;
    }
    made->total = NULL;
    made->totals = 0;
    int failed = PyDict_SetItem(rows, name, (PyObject *)made);
    Py_DECREF((PyObject *)made);
    return failed ? NULL : made;
}

Total *
total_of(PyObject *name, PyObject *outcome)
{
    Row *row = row_of(name);
    if (row == NULL) {
        return NULL;
    }
    for (Py_ssize_t index = 0; index < row->totals; index++) {
        PyObject *one = row->total[index].outcome;
        if (one == outcome || PyUnicode_Compare(one, outcome) == 0) {
            return &row->total[index];
        }
    }
    Total *larger = PyMem_Realloc(row->total, (size_t)(row->totals + 1) * sizeof(Total));
    if (larger == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    row->total = larger;
    larger[row->totals] = (Total){.outcome = Py_NewRef(outcome)};
    return &larger[row->totals++];
}

/* A new name where there is room for one, else `other`. New reference; NULL with an exception. */
PyObject *
capped_name(PyObject *name)
{
    if (PyUnicode_GET_LENGTH(name) == 0) {
        return Py_NewRef(name);
    }
    int known = PyDict_Contains(rows, name);
    if (known < 0) {
        return NULL;
    }
    if (!known) {
        int shared = PyDict_Contains(rows, other);
        if (shared < 0) {
            return NULL;
        }
        if (PyDict_GET_SIZE(rows) - shared >= MAX_NAMES) {
            return Py_NewRef(other);
        }
        if (row_of(name) == NULL) {
            return NULL;
        }
    }
    return Py_NewRef(name);
}

bool
tell_total(PyObject *list, PyObject *name, PyObject *outcome, uint64_t number, double cpu, double wall)
{
    PyObject *line = Py_BuildValue("OOKdd", name, outcome, (unsigned long long)number, cpu, wall);
    bool done = line != NULL && PyList_Append(list, line) == 0;
    Py_XDECREF(line);
    return done;
}

PyObject *
kept_rows(void)
{
    return PyDict_Items(rows);
}

bool
tell_closed(PyObject *list, PyObject *kept)
{
    bool done = true;
    for (Py_ssize_t index = 0; done && index < PyList_GET_SIZE(kept); index++) {
        PyObject *item = PyList_GET_ITEM(kept, index);
        Row *row = (Row *)PyTuple_GET_ITEM(item, 1);
        for (Py_ssize_t which = 0; done && which < row->totals; which++) {
            Total total = row->total[which];
            done = tell_total(list, PyTuple_GET_ITEM(item, 0), total.outcome, total.number, total.cpu, total.wall);
        }
    }
    return done;
}

void
forget_rows(void)
{
    PyDict_Clear(rows);
}

int
set_up_rows(void)
{
    if (other == NULL
        && ((rows = PyDict_New()) == NULL || (other = PyUnicode_InternFromString("other")) == NULL)) {
        return -1;
    }
    return PyType_Ready(&RowType);
}
