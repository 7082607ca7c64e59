/* Attributes by their names, each name made once.
 *
 * PyObject_GetAttrString makes a string each time, and the interpreter keeps it in its cache of types' attributes, in
 * the place of one that the program needs: all code gets slower by it, at a place that nobody can find. */
#include "carrier.h"

#include <string.h>

enum { MOST = 64 };

static struct {
    const char *text;
    PyObject *name;
} names[MOST];

/* `text`: a literal. Borrowed; NULL with an exception. */
static PyObject *
name_of(const char *text)
{
    for (int index = 0; index < MOST; index++) {
        if (names[index].text == text) {
            return names[index].name;
        }
        if (names[index].text == NULL) {
            PyObject *name = PyUnicode_InternFromString(text);
            if (name != NULL) {
                names[index].text = text;
                names[index].name = name;
            }
            return name;
        }
    }
    PyErr_SetString(PyExc_SystemError, "too many names");
    return NULL;
}

PyObject *
get_attribute(PyObject *object, const char *text)
{
    PyObject *name = name_of(text);
    return name == NULL ? NULL : PyObject_GetAttr(object, name);
}

bool
set_attribute(PyObject *object, const char *text, PyObject *value)
{
    PyObject *name = name_of(text);
    return name != NULL && PyObject_SetAttr(object, name, value) == 0;
}

PyObject *
call_method(PyObject *object, const char *text)
{
    PyObject *name = name_of(text);
    return name == NULL ? NULL : PyObject_CallMethodNoArgs(object, name);
}

/* Borrowed or NULL, without an exception. */
PyObject *
get_item(PyObject *dict, const char *text)
{
    PyObject *name = name_of(text);
    PyObject *item = name == NULL ? NULL : PyDict_GetItemWithError(dict, name);
    if (item == NULL) {
        PyErr_Clear();
    }
    return item;
}
