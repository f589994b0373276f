/* A V4L2 camera without a kernel: preloaded, it answers the ioctls of a plain file that is opened as the device.

It delivers the files 0.jpg, 1.jpg, … of the folder FAKE_V4L2_PICTURES as FAKE_V4L2_WIDTH x FAKE_V4L2_HEIGHT motion JPEG,
or as Y16 if FAKE_V4L2_Y16 is set, then is gone (ENODEV). It has the controls exposure and gain, if FAKE_V4L2_LOG is
set: the name of a file that gets a line for each control that is set and each format that is requested. Its buffers lie in that file, and keep what a longer picture left behind, as a driver's do. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_BYTES (1 << 18) /* four of them: the file's size */

static unsigned queue[64], queued, taken, delivered;

static int deliver(int fd, struct v4l2_buffer *buffer) {
    static char bytes[BUFFER_BYTES];
    char path[4096];
    snprintf(path, sizeof path, "%s/%u.jpg", getenv("FAKE_V4L2_PICTURES"), delivered);
    FILE *picture = fopen(path, "rb");
    if (!picture || queued == taken) {
        errno = ENODEV;
        return -1;
    }
    size_t size = fread(bytes, 1, sizeof bytes, picture);
    fclose(picture);
    delivered++;
    buffer->index = queue[taken++ % 64];
    buffer->length = BUFFER_BYTES;
    buffer->bytesused = size;
    buffer->m.offset = buffer->index * BUFFER_BYTES;
    return pwrite(fd, bytes, size, buffer->m.offset) == (ssize_t)size ? 0 : -1;
}

static void note(const char *what, unsigned id, int value) {
    FILE *log = getenv("FAKE_V4L2_LOG") ? fopen(getenv("FAKE_V4L2_LOG"), "a") : NULL;
    if (log) {
        fprintf(log, "%s %u %d\n", what, id, value);
        fclose(log);
    }
}

static int has_control(unsigned id) {
    return getenv("FAKE_V4L2_LOG") &&
           (id == V4L2_CID_EXPOSURE_AUTO || id == V4L2_CID_EXPOSURE_ABSOLUTE || id == V4L2_CID_GAIN);
}

int ioctl(int fd, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (_IOC_TYPE(request) != 'V') {
        int (*next)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
        return next(fd, request, argument);
    }
    struct v4l2_format *format = argument;
    struct v4l2_buffer *buffer = argument;
    struct v4l2_requestbuffers *wanted = argument;
    switch (request) {
    case VIDIOC_QUERYCAP:
        ((struct v4l2_capability *)argument)->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        return 0;
    case VIDIOC_QUERYCTRL: {
        struct v4l2_queryctrl *control = argument;
        if (!has_control(control->id))
            break;
        control->type = V4L2_CTRL_TYPE_INTEGER;
        control->minimum = 0;
        control->maximum = 10000;
        control->step = 1;
        return 0;
    }
    case VIDIOC_S_CTRL: {
        struct v4l2_control *control = argument;
        if (!has_control(control->id))
            break;
        note("control", control->id, control->value);
        return 0;
    }
    case VIDIOC_S_FMT:
        note("format", format->fmt.pix.pixelformat, 0);
        /* fall through */
    case VIDIOC_G_FMT:
    case VIDIOC_TRY_FMT:
        format->fmt.pix.width = atoi(getenv("FAKE_V4L2_WIDTH"));
        format->fmt.pix.height = atoi(getenv("FAKE_V4L2_HEIGHT"));
        format->fmt.pix.pixelformat = getenv("FAKE_V4L2_Y16") ? V4L2_PIX_FMT_Y16 : V4L2_PIX_FMT_MJPEG;
        format->fmt.pix.field = V4L2_FIELD_NONE;
        format->fmt.pix.sizeimage = BUFFER_BYTES;
        return 0;
    case VIDIOC_ENUM_FMT: {
        struct v4l2_fmtdesc *entry = argument;
        if (entry->index)
            break;
        entry->pixelformat = V4L2_PIX_FMT_MJPEG;
        return 0;
    }
    case VIDIOC_ENUM_FRAMESIZES: {
        struct v4l2_frmsizeenum *entry = argument;
        if (entry->index > 1 || entry->pixel_format != V4L2_PIX_FMT_MJPEG)
            break;
        entry->type = V4L2_FRMSIZE_TYPE_DISCRETE;
        entry->discrete.width = atoi(getenv("FAKE_V4L2_WIDTH")) >> entry->index;
        entry->discrete.height = atoi(getenv("FAKE_V4L2_HEIGHT")) >> entry->index;
        return 0;
    }
    case VIDIOC_REQBUFS:
        wanted->count = wanted->count > 4 ? 4 : wanted->count;
        queued = taken = 0;
        return 0;
    case VIDIOC_QUERYBUF:
        buffer->length = BUFFER_BYTES;
        buffer->m.offset = buffer->index * BUFFER_BYTES;
        return 0;
    case VIDIOC_QBUF:
        queue[queued++ % 64] = buffer->index;
        return 0;
    case VIDIOC_DQBUF:
        return deliver(fd, buffer);
    case VIDIOC_G_INPUT:
        *(int *)argument = 0;
        return 0;
    case VIDIOC_S_INPUT:
    case VIDIOC_STREAMON:
    case VIDIOC_STREAMOFF:
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM:
        return 0;
    }
    errno = EINVAL;
    return -1;
}
