/* Decode the part of a JPEG that a crop needs, and resize it to a square, without the interpreter.

   `pipeline.images.crop_decode` is the only caller and describes the results. This module computes
   the same bytes as that module's numpy code:

   - The pixels are those of a whole decoding with the accurate inverse DCT and the smooth
     ("fancy") upsampling of chroma. What lies outside of the crop is read by the Huffman decoder,
     as it must be, but not transformed; lines below the crop are not read at all.
   - The resizer is a triangle filter in integers: coefficients of 14 bits, first along the lines,
     then along the columns, each pass rounded half up to 8 bits.

   A row that is not a plain JPEG, or that makes libjpeg warn, is left to the caller: its entry in
   `todo` stays 1. No byte of a row is trusted. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000 /* the first limited API with buffers, of Python 3.11 */
#include <Python.h>

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "libjpeg-turbo 2.1 or newer is required: other libraries cannot crop, or do it with faults"
#endif

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define WITH_AVX2 1
#define AVX2_CODE __attribute__((target("avx2")))
#else
#define WITH_AVX2 0
#endif

#define PRECISION 14             /* bits of a coefficient */
#define ONE (1 << PRECISION)     /* the sum of the coefficients of an output */
#define HALF (1 << (PRECISION - 1))
#define MAX_PIXELS 178956970     /* pictures with more are refused: Pillow takes them for attacks */
#define MAX_SIZE 65535           /* the largest side of a square */
#define CHUNK 32                 /* bytes that the vertical pass computes at once */
#define LINES 2                  /* lines that libjpeg is asked for at once: one row of 4:2:0 */
#define CONTEXT 2                /* pixels around the crop: one sample of interpolated chroma */

/* --- scratch memory, which the rows of a call share ------------------------------------------ */

typedef struct {
    void *memory;
    size_t bytes;
} Block;

/* Return at least *bytes* of memory, zeros where it is new; NULL if there is none. */
static void *reserve(Block *block, size_t bytes)
{
    if (bytes > block->bytes) {
        free(block->memory);
        block->memory = calloc(1, bytes);
        block->bytes = block->memory ? bytes : 0;
    }
    return block->memory;
}

/* --- the filter ------------------------------------------------------------------------------- */

/* One axis of the filter: output i is the sum of count[i] pixels from first[i] on, which is
   relative to `start`, times coefs[index_of(axis, i, t)] for t = 0, 1, ... Coefficients for t from
   count[i] to `taps` are 0, and so are those of the outputs from the size to `outputs`. */
typedef struct {
    int start, stop; /* the pixels of the reduced picture that the crop touches */
    int taps;        /* a multiple of 4 */
    int outputs;     /* the size, up to a multiple of 8 */
    int is_copy;     /* true if each output is one pixel */
    int *first, *count;
    int16_t *coefs;
    Block first_block, count_block, coefs_block;
} Axis;

/* Groups of four coefficients, those of adjacent outputs beside each other. */
static inline size_t index_of(const Axis *axis, int i, int t)
{
    return ((size_t)(t / 4) * axis->outputs + i) * 4 + t % 4;
}

/* Compute one axis: *length* pixels from *offset* on, of a picture that is decoded at a fraction of
   1 / *scale*, become *size* outputs. Everything is measured in units of 1 / (2 * scale * size) of
   a reduced pixel, in which all centres and distances are integers. Return 0 if there is no
   memory. */
static int compute_axis(Axis *axis, int64_t offset, int64_t length, int64_t scale, int64_t size)
{
    int64_t unit = 2 * scale * size;
    int64_t support = unit > 2 * length ? unit : 2 * length;
    int64_t start = offset / scale, stop = (offset + length + scale - 1) / scale;
    int64_t most = (2 * support + unit - 1) / unit;
    size_t coefs_bytes;

    most = most < stop - start ? most : stop - start;
    axis->start = (int)start;
    axis->stop = (int)stop;
    axis->taps = (int)((most + 3) / 4 * 4);
    axis->outputs = (int)((size + 7) / 8 * 8);
    axis->is_copy = scale == 1 && length == size;
    coefs_bytes = (size_t)axis->outputs * axis->taps * sizeof(int16_t);
    axis->first = reserve(&axis->first_block, (size_t)axis->outputs * sizeof(int));
    axis->count = reserve(&axis->count_block, (size_t)axis->outputs * sizeof(int));
    axis->coefs = reserve(&axis->coefs_block, coefs_bytes);
    if (!axis->first || !axis->count || !axis->coefs)
        return 0;
    memset(axis->coefs, 0, coefs_bytes);
    for (int64_t i = size; i < axis->outputs; i++)
        axis->first[i] = axis->count[i] = 0;
    for (int64_t i = 0; i < size; i++) {
        int64_t centre = 2 * offset * size + (2 * i + 1) * length;
        int64_t below = centre - support - scale * size, above = centre + support - scale * size;
        int64_t first = below < 0 ? 0 : below / unit + 1;
        int64_t last = (above + unit - 1) / unit - 1;
        int64_t total = 0, sum = 0, rounded = 0;

        first = first > start ? first : start;
        last = last < stop - 1 ? last : stop - 1;
        axis->first[i] = (int)(first - start);
        axis->count[i] = (int)(last - first + 1);
        for (int64_t p = first; p <= last; p++)
            total += support - llabs((2 * p + 1) * scale * size - centre);
        /* Rounding the running sums makes the coefficients sum to ONE. */
        for (int64_t p = first; p <= last; p++) {
            int64_t before = rounded;

            sum += support - llabs((2 * p + 1) * scale * size - centre);
            rounded = (2 * ONE * sum + total) / (2 * total);
            axis->coefs[index_of(axis, (int)i, (int)(p - first))] = (int16_t)(rounded - before);
        }
    }
    return 1;
}

static void free_axis(Axis *axis)
{
    free(axis->first_block.memory);
    free(axis->count_block.memory);
    free(axis->coefs_block.memory);
}

/* Filter a line of RGBX pixels to RGB. It may read `taps` pixels beyond those of the axis, which
   are multiplied by 0, and write `outputs` pixels and 4 bytes. */
typedef void Horizontal(const uint8_t *line, const Axis *axis, uint8_t *out);

/* Compute output *i* of the axis from whole rows, for a multiple of CHUNK bytes. An even number of
   rows is readable; the last one is multiplied by 0 if the count is odd. */
typedef void Vertical(
    const uint8_t *const *rows, const Axis *axis, int i, size_t bytes, uint8_t *out);

static void horizontal_plain(const uint8_t *line, const Axis *axis, uint8_t *out)
{
    for (int i = 0; i < axis->outputs; i++) {
        const uint8_t *pixel = line + 4 * (size_t)axis->first[i];
        int32_t red = HALF, green = HALF, blue = HALF;

        for (int t = 0; t < axis->count[i]; t++, pixel += 4) {
            int32_t coef = axis->coefs[index_of(axis, i, t)];

            red += coef * pixel[0];
            green += coef * pixel[1];
            blue += coef * pixel[2];
        }
        *out++ = (uint8_t)(red >> PRECISION);
        *out++ = (uint8_t)(green >> PRECISION);
        *out++ = (uint8_t)(blue >> PRECISION);
    }
}

static void vertical_plain(
    const uint8_t *const *rows, const Axis *axis, int i, size_t bytes, uint8_t *out)
{
    for (size_t at = 0; at < bytes; at += CHUNK) {
        int32_t sums[CHUNK];

        for (int k = 0; k < CHUNK; k++)
            sums[k] = HALF;
        for (int t = 0; t < axis->count[i]; t++) {
            int32_t coef = axis->coefs[index_of(axis, i, t)];

            for (int k = 0; k < CHUNK; k++)
                sums[k] += coef * rows[t][at + k];
        }
        for (int k = 0; k < CHUNK; k++)
            out[at + k] = (uint8_t)(sums[k] >> PRECISION);
    }
}

#if WITH_AVX2
/* Load 16 bytes each, the first ones into the low half. */
AVX2_CODE static inline __m256i load_halves(const void *low, const void *high)
{
    __m256i half = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low));

    return _mm256_inserti128_si256(half, _mm_loadu_si128((const __m128i *)high), 1);
}

/* Return the sums of outputs *i* (in the low half) and *i* + 1, each of four channels, rounded. */
AVX2_CODE static inline __m256i sums_of_two(const uint8_t *line, const Axis *axis, int i)
{
    /* Words of two neighbouring pixels: red and red, green and green, ... */
    const __m256i first_two = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1));
    const __m256i last_two = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(8, -1, 12, -1, 9, -1, 13, -1, 10, -1, 14, -1, 11, -1, 15, -1));
    const __m256i first_weights = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2);
    const __m256i last_weights = _mm256_setr_epi32(1, 1, 1, 1, 3, 3, 3, 3);
    const uint8_t *low = line + 4 * (size_t)axis->first[i];
    const uint8_t *high = line + 4 * (size_t)axis->first[i + 1];
    const int16_t *coefs = axis->coefs + 4 * (size_t)i;
    __m256i sums = _mm256_set1_epi32(HALF);

    for (int t = 0; t < axis->taps; t += 4, coefs += 4 * (size_t)axis->outputs) {
        __m256i pixels = load_halves(low + 4 * (size_t)t, high + 4 * (size_t)t);
        __m256i weights = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)coefs));

        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(
            _mm256_shuffle_epi8(pixels, first_two),
            _mm256_permutevar8x32_epi32(weights, first_weights)));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(
            _mm256_shuffle_epi8(pixels, last_two),
            _mm256_permutevar8x32_epi32(weights, last_weights)));
    }
    return _mm256_srai_epi32(sums, PRECISION);
}

AVX2_CODE static void horizontal_avx2(const uint8_t *line, const Axis *axis, uint8_t *out)
{
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i without_x = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));

    for (int i = 0; i < axis->outputs; i += 8, out += 24) {
        __m256i low = _mm256_packs_epi32(
            sums_of_two(line, axis, i), sums_of_two(line, axis, i + 2));
        __m256i high = _mm256_packs_epi32(
            sums_of_two(line, axis, i + 4), sums_of_two(line, axis, i + 6));
        __m256i rgbx = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), in_order);
        __m256i rgb = _mm256_shuffle_epi8(rgbx, without_x);

        _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(rgb));
        _mm_storeu_si128((__m128i *)(out + 12), _mm256_extracti128_si256(rgb, 1));
    }
}

AVX2_CODE static void vertical_avx2(
    const uint8_t *const *rows, const Axis *axis, int i, size_t bytes, uint8_t *out)
{
    const __m256i zero = _mm256_setzero_si256();

    for (size_t at = 0; at < bytes; at += CHUNK) {
        __m256i a = _mm256_set1_epi32(HALF), b = a, c = a, d = a;

        for (int t = 0; t < axis->count[i]; t += 2) {
            __m256i even = _mm256_loadu_si256((const __m256i *)(rows[t] + at));
            __m256i odd = _mm256_loadu_si256((const __m256i *)(rows[t + 1] + at));
            __m256i low = _mm256_unpacklo_epi8(even, odd);
            __m256i high = _mm256_unpackhi_epi8(even, odd);
            __m256i weights;
            int32_t pair;

            memcpy(&pair, axis->coefs + index_of(axis, i, t), 4);
            weights = _mm256_set1_epi32(pair);
            a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), weights));
            b = _mm256_add_epi32(b, _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), weights));
            c = _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), weights));
            d = _mm256_add_epi32(d, _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), weights));
        }
        a = _mm256_packs_epi32(_mm256_srai_epi32(a, PRECISION), _mm256_srai_epi32(b, PRECISION));
        c = _mm256_packs_epi32(_mm256_srai_epi32(c, PRECISION), _mm256_srai_epi32(d, PRECISION));
        _mm256_storeu_si256((__m256i *)(out + at), _mm256_packus_epi16(a, c));
    }
}
#endif

/* --- streaming lines into the square ---------------------------------------------------------- */

typedef struct {
    Axis x, y;
    int size, next;        /* the side of the square; the next output row */
    size_t row_bytes;      /* of a filtered row in the ring: RGB, up to a multiple of CHUNK */
    int ring_rows;
    uint8_t *ring;         /* filtered rows */
    const uint8_t **taps;
    Block ring_block, taps_block, lines_block;
    Horizontal *horizontal;
    Vertical *vertical;
} Resizer;

static int begin_square(Resizer *r, const int32_t *box, int scale, int size)
{
    r->size = size;
    r->next = 0;
    if (!compute_axis(&r->x, box[0], box[2] - box[0], scale, size) ||
        !compute_axis(&r->y, box[1], box[3] - box[1], scale, size))
        return 0;
    r->row_bytes = (3 * (size_t)r->x.outputs + 4 + CHUNK - 1) / CHUNK * CHUNK;
    r->ring_rows = r->y.taps;
    /* One row more, for the output of the vertical pass. */
    r->ring = reserve(&r->ring_block, r->row_bytes * (r->ring_rows + 1));
    r->taps = reserve(&r->taps_block, sizeof(*r->taps) * r->ring_rows);
    return r->ring && r->taps;
}

/* Add line *y* of the reduced picture, from the first pixel of the axis on, and write the rows of
   the square that are complete with it. Its pixels are RGB if they are copied, else RGBX. */
static void add_line(Resizer *r, int y, const uint8_t *line, uint8_t *out)
{
    size_t bytes = 3 * (size_t)r->size;
    uint8_t *row = r->ring + r->row_bytes * ((y - r->y.start) % r->ring_rows);
    uint8_t *result = r->ring + r->row_bytes * r->ring_rows;

    if (r->x.is_copy && r->y.is_copy) {
        memcpy(out + bytes * (y - r->y.start), line, bytes);
        return;
    }
    if (r->x.is_copy)
        memcpy(row, line, bytes);
    else
        r->horizontal(line, &r->x, row);
    for (; r->next < r->size; r->next++) {
        int first = r->y.first[r->next], count = r->y.count[r->next];

        if (first + count > y - r->y.start + 1)
            return;
        for (int t = 0; t < (count + 1) / 2 * 2; t++) /* beyond the last one: any row, times 0 */
            r->taps[t] = r->ring + r->row_bytes * ((first + (t < count ? t : 0)) % r->ring_rows);
        if (count == 1) {
            memcpy(out + r->next * bytes, r->taps[0], bytes);
            continue;
        }
        r->vertical(r->taps, &r->y, r->next, r->row_bytes, result);
        memcpy(out + r->next * bytes, result, bytes);
    }
}

static void free_resizer(Resizer *r)
{
    free_axis(&r->x);
    free_axis(&r->y);
    free(r->ring_block.memory);
    free(r->lines_block.memory);
    free(r->taps_block.memory);
}

/* --- libjpeg ---------------------------------------------------------------------------------- */

typedef struct {
    struct jpeg_error_mgr base; /* the first member: libjpeg's pointer points to it */
    jmp_buf refuse;
} Errors;

static void refuse(j_common_ptr cinfo)
{
    longjmp(((Errors *)cinfo->err)->refuse, 1);
}

static void refuse_warning(j_common_ptr cinfo, int level)
{
    if (level < 0)
        refuse(cinfo);
}

static void print_nothing(j_common_ptr cinfo)
{
    (void)cinfo;
}

/* Return 1 for the kinds of files whose crops equal those of the whole picture. */
static int is_plain(j_decompress_ptr cinfo, const int32_t *shape)
{
    const jpeg_component_info *comp = cinfo->comp_info;

    if (cinfo->image_height != (JDIMENSION)shape[0] || cinfo->image_width != (JDIMENSION)shape[1])
        return 0;
    if (cinfo->data_precision != 8 || cinfo->progressive_mode || cinfo->arith_code ||
        jpeg_has_multiple_scans(cinfo))
        return 0;
    if (cinfo->num_components == 1)
        return cinfo->jpeg_color_space == JCS_GRAYSCALE && comp[0].h_samp_factor == 1 &&
               comp[0].v_samp_factor == 1;
    if (cinfo->num_components != 3 || cinfo->jpeg_color_space != JCS_YCbCr)
        return 0;
    for (int k = 1; k < 3; k++)
        if (comp[k].h_samp_factor != 1 || comp[k].v_samp_factor != 1)
            return 0;
    switch (comp[0].h_samp_factor * 10 + comp[0].v_samp_factor) {
    case 11: case 21: case 22: case 12: case 41: /* 4:4:4, 4:2:2, 4:2:0, 4:4:0, 4:1:1 */
        return 1;
    }
    return 0;
}

/* Decode the columns and lines that the crop needs, and resize them. */
static int read_crop(j_decompress_ptr cinfo, Resizer *r, uint8_t *out)
{
    JDIMENSION left, width, y, line_pixel = r->x.is_copy ? 3 : 4;
    JDIMENSION start = r->x.start, stop = r->x.stop;
    JSAMPROW lines[LINES];
    size_t line_bytes;

    jpeg_start_decompress(cinfo);
    left = start > CONTEXT ? start - CONTEXT : 0;
    stop = stop + CONTEXT < cinfo->output_width ? stop + CONTEXT : cinfo->output_width;
    width = stop - left;
    if (width < cinfo->output_width)
        jpeg_crop_scanline(cinfo, &left, &width);
    line_bytes = (4 * ((size_t)width + r->x.taps) + 31) / 32 * 32;
    lines[0] = reserve(&r->lines_block, LINES * line_bytes + 8);
    if (!lines[0])
        return 0;
    /* At aligned addresses, libjpeg-turbo would write past the caches, from which the lines are
       read next: a crop would take an eighth longer. */
    lines[0] += (uintptr_t)lines[0] % 16 == 0 ? 8 : 0;
    for (int k = 1; k < LINES; k++)
        lines[k] = lines[k - 1] + line_bytes;
    if (r->y.start > CONTEXT)
        jpeg_skip_scanlines(cinfo, r->y.start - CONTEXT);
    while ((y = cinfo->output_scanline) < (JDIMENSION)r->y.stop) {
        JDIMENSION count = jpeg_read_scanlines(cinfo, lines, LINES);

        for (JDIMENSION k = 0; k < count; k++)
            if (y + k >= (JDIMENSION)r->y.start && y + k < (JDIMENSION)r->y.stop)
                add_line(r, y + k, lines[k] + line_pixel * (start - left), out);
    }
    return 1;
}

/* Decode one row. Return 1 if it is decoded, 0 if it is refused. */
static int decode_row(
    const Py_buffer *row, const int32_t *shape, const int32_t *box, int scale, int size,
    Resizer *r, uint8_t *out)
{
    struct jpeg_decompress_struct cinfo;
    Errors errors;
    int done;

    if (row->len < 4 || (uint64_t)row->len > UINT32_MAX ||
        (int64_t)shape[0] * shape[1] > MAX_PIXELS)
        return 0;
    memset(&cinfo, 0, sizeof(cinfo));
    cinfo.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = refuse;
    errors.base.emit_message = refuse_warning;
    errors.base.output_message = print_nothing;
    if (setjmp(errors.refuse)) {
        jpeg_destroy_decompress(&cinfo);
        return 0;
    }
    /* A new decompressor for each row: an old one would lend its tables to a file without any. */
    jpeg_create_decompress(&cinfo);
    jpeg_mem_src(&cinfo, row->buf, (unsigned long)row->len);
    done = jpeg_read_header(&cinfo, TRUE) == JPEG_HEADER_OK && is_plain(&cinfo, shape) &&
           begin_square(r, box, scale, size);
    if (done) {
        cinfo.scale_num = 1;
        cinfo.scale_denom = scale;
        cinfo.dct_method = JDCT_ISLOW;
        cinfo.do_fancy_upsampling = TRUE;
        cinfo.out_color_space = r->x.is_copy ? JCS_EXT_RGB : JCS_EXT_RGBX;
        done = read_crop(&cinfo, r, out);
    }
    jpeg_destroy_decompress(&cinfo);
    return done;
}

/* --- the module ------------------------------------------------------------------------------- */

typedef struct {
    Py_buffer shapes, boxes, scales, todo, out;
    int size, avx2;
} Arrays;

/* Return 1 if all numbers of row *i* are valid, so that nothing below needs to check them. */
static int has_valid_numbers(const int32_t *shape, const int32_t *box, int32_t scale)
{
    return shape[0] > 0 && shape[0] <= JPEG_MAX_DIMENSION && shape[1] > 0 &&
           shape[1] <= JPEG_MAX_DIMENSION && 0 <= box[0] && box[0] < box[2] &&
           box[2] <= shape[1] && 0 <= box[1] && box[1] < box[3] && box[3] <= shape[0] &&
           (scale == 1 || scale == 2 || scale == 4 || scale == 8);
}

static void decode_rows(Py_buffer *rows, Py_ssize_t n, Arrays *arrays)
{
    const int32_t *shapes = arrays->shapes.buf, *boxes = arrays->boxes.buf;
    const int32_t *scales = arrays->scales.buf;
    uint8_t *todo = arrays->todo.buf;
    size_t square = 3 * (size_t)arrays->size * arrays->size;
    Resizer resizer;

    memset(&resizer, 0, sizeof(resizer));
    resizer.horizontal = horizontal_plain;
    resizer.vertical = vertical_plain;
#if WITH_AVX2
    if (arrays->avx2 && __builtin_cpu_supports("avx2")) {
        resizer.horizontal = horizontal_avx2;
        resizer.vertical = vertical_avx2;
    }
#endif
    for (Py_ssize_t i = 0; i < n; i++)
        if (todo[i] && has_valid_numbers(shapes + 2 * i, boxes + 4 * i, scales[i]) &&
            decode_row(rows + i, shapes + 2 * i, boxes + 4 * i, scales[i], arrays->size, &resizer,
                       (uint8_t *)arrays->out.buf + square * i))
            todo[i] = 0;
    free_resizer(&resizer);
}

/* Get the buffers of the rows that are to be decoded, decode them, and release the buffers. */
static int decode_sequence(PyObject *rows, Py_ssize_t n, Arrays *arrays)
{
    const uint8_t *todo = arrays->todo.buf;
    Py_buffer *buffers = calloc(n ? n : 1, sizeof(*buffers));
    int failed = buffers == NULL;

    if (failed)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < n && !failed; i++)
        if (todo[i])
            failed = PyObject_GetBuffer(PyTuple_GetItem(rows, i), buffers + i, PyBUF_SIMPLE) < 0;
    if (!failed) {
        Py_BEGIN_ALLOW_THREADS
        decode_rows(buffers, n, arrays);
        Py_END_ALLOW_THREADS
    }
    for (Py_ssize_t i = 0; i < n && buffers; i++)
        PyBuffer_Release(buffers + i); /* does nothing to a zeroed one */
    free(buffers);
    return failed ? -1 : 0;
}

static int have_lengths(Py_ssize_t n, const Arrays *arrays)
{
    if (arrays->size < 1 || arrays->size > MAX_SIZE)
        return 0;
    return arrays->shapes.len == 8 * n && arrays->boxes.len == 16 * n &&
           arrays->scales.len == 4 * n && arrays->todo.len == n &&
           arrays->out.len / 3 / arrays->size / arrays->size == n;
}

static PyObject *decode(PyObject *module, PyObject *args)
{
    PyObject *sequence, *rows;
    Arrays a;
    int failed = 1;

    (void)module;
    if (!PyArg_ParseTuple(args, "Oy*y*y*w*w*ip:decode", &sequence, &a.shapes, &a.boxes, &a.scales,
                          &a.todo, &a.out, &a.size, &a.avx2))
        return NULL;
    rows = PySequence_Tuple(sequence);
    if (rows) {
        Py_ssize_t n = PyTuple_Size(rows);

        if (have_lengths(n, &a))
            failed = decode_sequence(rows, n, &a);
        else
            PyErr_SetString(PyExc_ValueError, "the arrays do not have the lengths of the rows");
        Py_DECREF(rows);
    }
    PyBuffer_Release(&a.shapes);
    PyBuffer_Release(&a.boxes);
    PyBuffer_Release(&a.scales);
    PyBuffer_Release(&a.todo);
    PyBuffer_Release(&a.out);
    if (failed)
        return NULL;
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(decode_doc,
    "decode(rows, shapes, boxes, scales, todo, out, size, avx2)\n--\n\n"
    "Decode the rows whose entry in *todo* is 1 into *out*, and set the entries of those done to 0."
    "\n\nAll arrays are C-contiguous: shapes (n, 2), boxes (n, 4) and scales (n,) are int32, todo\n"
    "(n,) and out (n, size, size, 3) uint8. The interpreter's lock is released meanwhile.");

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS, decode_doc},
    {NULL, NULL, 0, NULL},
};

#define TEXT_OF(value) #value
#define TEXT(macro) TEXT_OF(macro)

static int add_constants(PyObject *module)
{
    int avx2 = 0;

#if WITH_AVX2
    avx2 = __builtin_cpu_supports("avx2") != 0;
#endif
    return PyModule_AddStringConstant(module, "LIBJPEG_TURBO", TEXT(LIBJPEG_TURBO_VERSION)) < 0 ||
                   PyModule_AddIntConstant(module, "AVX2", avx2) < 0
               ? -1
               : 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, add_constants},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pipeline.images._jpeg_crop",
    .m_doc = "Decode the parts of JPEGs that crops need, and resize them to squares.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__jpeg_crop(void)
{
    return PyModuleDef_Init(&definition);
}
