"""FastAPI's side."""

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.peers import serving

app = FastAPI()
predict = serving.load() if __name__ != "__main__" else None  # in the workers, not in their parent


@app.post("/predict")
async def answer(request: Request) -> Response:
    item = serving.decode(await request.body())
    return Response(serving.encode(predict(item[np.newaxis])[0]), media_type=serving.MEDIA_TYPE)


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.peers.fastapi.server:app",
        port=serving.PORT,
        workers=serving.WORKERS,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        backlog=4096,
    )
