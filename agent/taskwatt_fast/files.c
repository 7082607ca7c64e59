/* Small files of /proc, read with the GIL held: see taskwatt/procfs.py for why. */
#include "carrier.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { MOST = 65536 };

static PyObject *
contents(int descriptor)
{
    static char place[MOST]; /* one reader at a time: the GIL is held */
    ssize_t length;
    do {
        length = pread(descriptor, place, MOST, 0);
    } while (length < 0 && errno == EINTR);
    return PyBytes_FromStringAndSize(place, length < 0 ? 0 : length);
}

static PyObject *
read_file(PyObject *Py_UNUSED(module), PyObject *path)
{
    PyObject *encoded;
    if (!PyUnicode_FSConverter(path, &encoded)) {
        if (PyErr_ExceptionMatches(PyExc_ValueError)) {
            PyErr_Clear();
            return PyBytes_FromStringAndSize(NULL, 0);
        }
        return NULL;
    }
    int descriptor = open(PyBytes_AS_STRING(encoded), O_RDONLY | O_CLOEXEC);
    Py_DECREF(encoded);
    if (descriptor < 0) {
        return PyBytes_FromStringAndSize(NULL, 0);
    }
    PyObject *read = contents(descriptor);
    close(descriptor);
    return read;
}

static PyObject *
read_open_file(PyObject *Py_UNUSED(module), PyObject *descriptor)
{
    int number = PyObject_AsFileDescriptor(descriptor);
    return number < 0 ? NULL : contents(number);
}

static PyMethodDef functions[] = {
    {"read_file", read_file, METH_O, "(path) -> bytes; empty when it cannot be read."},
    {"read_open_file", read_open_file, METH_O, "(descriptor) -> bytes, from the beginning."},
    {NULL, NULL, 0, NULL},
};

int
add_files(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
