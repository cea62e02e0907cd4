# The server and its page on a CPU:
#   docker build -t denoising-speech .
#   docker run --rm -p 127.0.0.1:8000:8000 denoising-speech              then open http://127.0.0.1:8000
#   docker run --rm -p 8000:8000 -e DSPEECH_API_KEY=secret denoising-speech      for others, with a key
FROM python:3.12-slim

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY asr asr
COPY enhance enhance
COPY dlm dlm
COPY kernels kernels
COPY conf conf
COPY recipes recipes
RUN pip install --no-cache-dir --editable '.[serve]' && useradd --uid 1000 --create-home speech
USER 1000
EXPOSE 8000
HEALTHCHECK --interval=30s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
# All addresses of the container; which of the host's are open is decided by -p.
ENTRYPOINT ["python", "-m", "asr.serve", "--host", "0.0.0.0"]
